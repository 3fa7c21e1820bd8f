#!lua flags=allow-oom
-- Ends the last task: the job SUCCEEDED. A cancel or deadline that comes after the video was sealed is too late.
-- KEYS: none (see keys.cc).  ARGV: 1 to 6 lease (see lib.lua), 7 video record, 8 event details
-- Result: {'OK'} | {'LOST'} | {'DONE'}
return function(ARGV)
  local j, mine = fence(ARGV)
  if not j then return {mine} end
  j.fr = '1'
  publish(j, STAGE_FINISHED)
  finalize(j, SUCCEEDED, nil, ARGV[8], mine, ARGV[7])
  return {'OK'}
end
