#!lua flags=allow-oom
-- Ends a task that is done and makes the task of the next stage claimable.
-- KEYS: none (see keys.cc).  ARGV: 1 to 6 lease (see lib.lua), 7 next stage, 8 fraction of the job, 9 latents' location
-- Result: {'OK'} | {'LOST'} | {'DONE'}
local j, mine = fence()
if not j then return {mine} end
if stop_if_due(j, mine) then return {'OK'} end
end_lease(j, mine)
j.fr = ARGV[8]
put(j, 'fr', j.fr)
publish(j, STAGE_FINISHED)
put(j, 'l' .. j.sg, ARGV[9])
call('UNLINK', CHECKPOINT(j.id, j.sg))
j.sg = tonumber(ARGV[7])
j.at = j.f[j.sg] + 1
put(j, 'sg', j.sg)
put(j, 'at', j.at)
if j.av ~= '' then put(j, 'av', '') end
enqueue(j, now)
save(j)
return {'OK'}
