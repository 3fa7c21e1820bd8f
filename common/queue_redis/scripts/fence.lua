#!lua flags=allow-oom,no-writes
-- Whether a lease is held.
-- KEYS: none (see keys.cc).  ARGV: 1 to 6 lease (see lib.lua)
-- Result: {'OK'} | {'LOST'} | {'DONE'}
return function(ARGV)
  local j, why = fence(ARGV)
  return {j and 'OK' or why}
end
