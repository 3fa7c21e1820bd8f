#!lua flags=allow-oom,no-writes
-- Whether a lease is held.
-- KEYS: none (see keys.cc).  ARGV: 1 to 6 lease (see lib.lua)
-- Result: {'OK'} | {'LOST'} | {'DONE'}
local j, why = fence()
return {j and 'OK' or why}
