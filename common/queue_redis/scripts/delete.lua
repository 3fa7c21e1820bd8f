#!lua flags=allow-oom
-- Removes every trace of a finished job, its video in Redis too.
-- KEYS: none (see keys.cc).  ARGV: 1 job id, 2 'dead': only if it is a dead letter; 'expired': only if its time is over
-- Result: {'OK'} | {'NONE'} | {'UNFINISHED'} | {'NOT_DEAD'} | {'NOT_EXPIRED'}
return function(ARGV)
  local id = ARGV[1]
  if ARGV[2] == 'expired' then
    -- The record itself may have expired before the indexes.
    local expire = call('ZSCORE', EXPIRY, id)
    if not expire or tonumber(expire) > now then return {'NOT_EXPIRED'} end
    erase(id)
    return {'OK'}
  end
  local j = load(id)
  if not j then return {'NONE'} end
  if not finished(j) then return {'UNFINISHED'} end
  if ARGV[2] == 'dead' and not call('ZSCORE', DEAD, id) then return {'NOT_DEAD'} end
  erase(id)
  return {'OK'}
end
