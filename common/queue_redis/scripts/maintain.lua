#!lua flags=allow-oom
-- Housekeeping that needs no worker: backoffs that ended, jobs past their deadline or cancelled whose worker is gone,
-- consumers and heartbeats of processes that left. Idempotent; bounded work per call.
-- KEYS: none (see keys.cc).  ARGV: none
-- Result: {job ids whose retention is over}: remove their videos, then call delete with 'expired'
return function(ARGV)
  for _, sg in ipairs(STAGES) do promote(sg) end

  for _, id in ipairs(call('ZRANGEBYSCORE', DEADLINES, '-inf', now, 'LIMIT', 0, 200)) do
    local j = load(id)
    if not j then
      call('ZREM', DEADLINES, id)
    elseif not held(j) then
      stop_if_due(j)
    end
  end

  for _, sg in ipairs(STAGES) do
    for _, pr in ipairs(PRIORITIES) do
      local tasks = TASKS[sg][pr]
      local ended = pcall('XPENDING', tasks, GROUP, 'IDLE', LEASE_MS, '-', '+', 100)
      if not ended.err then
        for _, row in ipairs(ended) do
          local entry = call('XRANGE', tasks, row[1], row[1])[1]
          local j = entry and load(entry[2][2])
          if j and j.ws == 'l' and j.le == row[1] then stop_if_due(j) end
        end
        if #ended > 0 then wake(sg) end
        for _, c in ipairs(call('XINFO', 'CONSUMERS', tasks, GROUP)) do
          -- name, pending and idle are at even places.
          if c[4] == 0 and c[6] > 3600000 then call('XGROUP', 'DELCONSUMER', tasks, GROUP, c[2]) end
        end
      end
    end
  end

  for _, worker in ipairs(call('ZRANGEBYSCORE', WORKERS, '-inf', int(now - WORKER_TTL))) do
    call('ZREM', WORKERS, worker)
    call('HDEL', WORKER_INFO, worker)
  end
  return call('ZRANGEBYSCORE', EXPIRY, '-inf', now, 'LIMIT', 0, 200)
end
