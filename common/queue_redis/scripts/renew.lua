#!lua flags=allow-oom
-- Prolongs a lease and, while nobody wants the task to stop, publishes progress.
-- KEYS: none (see keys.cc).  ARGV: 1 to 6 lease (see lib.lua), 7 fraction of the job or '', 8 event details
-- Result: {'HELD'} | {'CANCEL'} | {'DEADLINE'} | {'LOST'} | {'DONE'}
return function(ARGV)
  local j, why = fence(ARGV)
  if not j then return {why} end
  -- JUSTID: the delivery count, which is part of the fencing token, stays.
  call('XCLAIM', TASKS[j.sg][j.pr], GROUP, ARGV[5], '0', ARGV[4], 'JUSTID')
  if j.cx == '1' then return {'CANCEL'} end
  if tonumber(j.dl) <= now then return {'DEADLINE'} end
  if ARGV[7] ~= '' then
    j.fr = ARGV[7]
    publish(j, MADE_PROGRESS, nil, ARGV[8])
    save(j)
  end
  return {'HELD'}
end
