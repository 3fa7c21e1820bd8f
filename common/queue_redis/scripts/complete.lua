#!lua flags=allow-oom
-- Ends a task that is done and makes the task of the next stage claimable.
-- KEYS: none (see keys.cc).  ARGV: 1 to 6 lease (see lib.lua), 7 next stage, 8 fraction of the job, 9 latents' location
-- Result: {'OK'} | {'LOST'} | {'DONE'}
return function(ARGV)
  local j, mine = fence(ARGV)
  if not j then return {mine} end
  if stop_if_due(j, mine) then return {'OK'} end
  end_lease(j)
  j.fr = ARGV[8]
  publish(j, STAGE_FINISHED)
  call('UNLINK', CHECKPOINT(j.id, j.sg))
  local output = 'l' .. j.sg
  j.sg = ARGV[7]
  j.at = int(j.f[j.sg] + 1)
  j.av = '-'
  enqueue(j, NOW)
  save(j, 'dn', mine, output, ARGV[9])
  return {'OK'}
end
