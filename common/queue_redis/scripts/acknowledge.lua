#!lua flags=allow-oom
-- The holder has stopped: the job is CANCELLED or EXPIRED.
-- KEYS: none (see keys.cc).  ARGV: 1 to 6 lease (see lib.lua)
-- Result: {'OK'} | {'NOTHING'} (neither was due) | {'LOST'} | {'DONE'}
return function(ARGV)
  local j, mine = fence(ARGV)
  if not j then return {mine} end
  return {stop_if_due(j, mine) and 'OK' or 'NOTHING'}
end
