#!lua flags=allow-oom
-- Ends an attempt that failed: again after a random backoff (transient), again on another worker (out of memory, once),
-- or FAILED and a dead letter (permanent, or no attempt left).
-- KEYS: none (see keys.cc).
-- ARGV: 1 to 6 lease (see lib.lua), 7 class (transient | permanent | memory), 8 reason, 9 message, 10 random in [0, 1)
-- Result: {'OK'} | {'LOST'} | {'DONE'}
return function(ARGV)
  local j, mine = fence(ARGV)
  if not j then return {mine} end
  if stop_if_due(j, mine) then return {'OK'} end
  local sg, class = j.sg, ARGV[7]
  local failures = j.f[sg] + 1
  j.f[sg] = int(failures)
  local error = {reason = ARGV[8], message = ARGV[9], sg = sg, n = j.f[sg], worker = ARGV[5]}
  local final = class == 'permanent'
  if class == 'memory' then final = call('HINCRBY', JOB(j.id), 'o' .. sg, '1') > 1 end
  if not final and failures >= MAX_ATTEMPTS then
    final = true
    error.message = error.reason .. ': ' .. error.message
    error.reason = 'ATTEMPTS_EXHAUSTED'
  end
  if final then
    finalize(j, FAILED, error, nil, mine)
    return {'OK'}
  end
  end_lease(j)
  j.at = int(failures + 1)
  publish(j, RETRIED, error)
  if class == 'memory' then
    j.av = j.av == '-' and ARGV[5] or j.av .. '\31' .. ARGV[5]
    enqueue(j, NOW)
  else
    local cap = math.min(RETRY_MAX, RETRY_BASE * 2 ^ math.min(failures - 1, 60))
    delay(j, int(now + cap * ARGV[10]))
    -- Blocked workers learn when to look again.
    wake(sg)
  end
  save(j, 'dn', mine)
  return {'OK'}
end
