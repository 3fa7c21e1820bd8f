#!lua flags=allow-oom
-- Walks the index of all jobs, newest first, and picks those that a filter lets through.
-- KEYS: none (see keys.cc).
-- ARGV: 1 create time and 2 job id to go on behind ('+inf', '' from the newest), 3 states as digits ('' all),
--       4 tenant ('' all), 5 how many at most, 6 how many to look at at most
-- Result: {1 if there may be more, create time and job id of the last one looked at, {job id, create time, …}}
return function(ARGV)
  local max, last, states, tenant = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
  local want, budget = tonumber(ARGV[5]), tonumber(ARGV[6])
  local found = {}
  local more = 0
  local done = false
  while not done do
    local chunk = call('ZREVRANGEBYSCORE', JOBS, max, '-inf', 'WITHSCORES', 'LIMIT', 0, 200)
    done = #chunk < 400
    local moved = false
    for i = 1, #chunk, 2 do
      local id, ct = chunk[i], chunk[i + 1]
      if ct ~= max or last == '' or id < last then
        if budget <= 0 then
          more = 1
          done = true
          break
        end
        budget = budget - 1
        local v = call('HMGET', JOB(id), 'c', 'tn')
        if not v[1] then
          if not call('ZSCORE', EXPIRY, id) then call('ZREM', JOBS, id) end
        elseif (states == '' or string.find(states, string.sub(v[1], 1, 1), 1, true)) and (tenant == '' or v[2] == tenant) then
          if #found >= 2 * want then
            more = 1
            done = true
            break
          end
          found[#found + 1] = id
          found[#found + 1] = ct
        end
        max, last = ct, id
        moved = true
      end
    end
    -- More than a chunk of jobs in one microsecond cannot be; never spin.
    if not moved then done = true end
  end
  return {more, max, last, found}
end
