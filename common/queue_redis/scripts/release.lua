#!lua flags=allow-oom
-- Hands a task back to its old place in the line; no attempt is counted.
-- KEYS: none (see keys.cc).  ARGV: 1 to 6 lease (see lib.lua)
-- Result: {'OK'} | {'LOST'} | {'DONE'}
return function(ARGV)
  local j, mine = fence(ARGV)
  if not j then return {mine} end
  if stop_if_due(j, mine) then return {'OK'} end
  end_lease(j)
  enqueue(j, j.en)
  save(j, 'dn', mine)
  return {'OK'}
end
