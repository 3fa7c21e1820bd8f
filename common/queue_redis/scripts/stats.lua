#!lua flags=allow-oom,no-writes
-- Depth and age of the queue.
-- KEYS: none (see keys.cc).  ARGV: none
-- Result: for each stage and priority {stage, priority, waiting, delayed, running, age of the oldest waiting task in us}
return function(ARGV)
  local rows = {}
  for _, sg in ipairs(STAGES) do
    for _, pr in ipairs(PRIORITIES) do
      local pending = pcall('XPENDING', TASKS[sg][pr], GROUP)
      local oldest = call('ZRANGE', WAITING[sg][pr], 0, 0, 'WITHSCORES')
      rows[#rows + 1] = {tonumber(sg), tonumber(pr), call('ZCARD', WAITING[sg][pr]), call('ZCARD', DELAYED[sg][pr]),
        pending.err and 0 or pending[1], oldest[2] and int(math.max(0, now - oldest[2])) or '0'}
    end
  end
  return rows
end
