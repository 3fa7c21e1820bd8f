#!lua flags=allow-oom,no-writes
-- The workers that were heard of lately.
-- KEYS: none (see keys.cc).  ARGV: none
-- Result: {record, time of its last heartbeat, …}
return function(ARGV)
  local rows = {}
  local alive = call('ZRANGEBYSCORE', WORKERS, int(now - WORKER_TTL), '+inf', 'WITHSCORES')
  for i = 1, #alive, 2 do
    local record = call('HGET', WORKER_INFO, alive[i])
    if record then
      rows[#rows + 1] = record
      rows[#rows + 1] = alive[i + 1]
    end
  end
  return rows
end
