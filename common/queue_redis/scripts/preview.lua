#!lua
-- Publishes the preview of the keyframes.
-- KEYS: none (see keys.cc).  ARGV: 1 to 6 lease (see lib.lua), 7 event details
-- Result: {'OK'} | {'LOST'} | {'DONE'}
local j, why = fence()
if not j then return {why} end
publish(j, PREVIEWED, nil, ARGV[7])
save(j)
return {'OK'}
