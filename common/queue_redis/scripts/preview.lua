#!lua
-- Publishes the preview of the keyframes.
-- KEYS: none (see keys.cc).  ARGV: 1 to 6 lease (see lib.lua), 7 event details
-- Result: {'OK'} | {'LOST'} | {'DONE'}
return function(ARGV)
  local j, why = fence(ARGV)
  if not j then return {why} end
  publish(j, PREVIEWED, nil, ARGV[7])
  save(j)
  return {'OK'}
end
