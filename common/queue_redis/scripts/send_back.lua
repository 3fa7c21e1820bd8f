#!lua flags=allow-oom
-- The input latents are gone: the stage before runs again. No attempt is counted, but the times are limited.
-- KEYS: none (see keys.cc).  ARGV: 1 to 6 lease (see lib.lua), 7 stage before, 8 fraction of the job, 9 why
-- Result: {'OK'} | {'LOST'} | {'DONE'}
return function(ARGV)
  local j, mine = fence(ARGV)
  if not j then return {mine} end
  if stop_if_due(j, mine) then return {'OK'} end
  local error = {reason = 'INPUT_LOST', message = ARGV[9], sg = j.sg, n = j.at, worker = ARGV[5]}
  if tonumber(j.sb) >= MAX_SEND_BACKS then
    finalize(j, FAILED, error, nil, mine)
    return {'OK'}
  end
  end_lease(j)
  j.sg = ARGV[7]
  j.at = int(j.f[j.sg] + 1)
  j.fr = ARGV[8]
  j.sb = int(j.sb + 1)
  j.av = '-'
  publish(j, RETRIED, error)
  enqueue(j, NOW)
  save(j, 'dn', mine, 'l' .. j.sg, '')
  return {'OK'}
end
