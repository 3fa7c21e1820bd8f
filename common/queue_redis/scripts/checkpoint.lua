#!lua flags=allow-oom
-- Puts an uploaded checkpoint in place of the one before, or throws it away when the lease is lost. The blob itself
-- never passes through Lua.
-- KEYS: none (see keys.cc).  ARGV: 1 to 6 lease (see lib.lua), 7 key that holds the upload
-- Result: {'OK'} | {'MISSING'} (the upload is not there) | {'LOST'} | {'DONE'}
return function(ARGV)
  local j, why = fence(ARGV)
  if not j then
    call('UNLINK', ARGV[7])
    return {why}
  end
  if call('EXISTS', ARGV[7]) == 0 then return {'MISSING'} end
  call('RENAME', ARGV[7], CHECKPOINT(j.id, j.sg))
  call('PERSIST', CHECKPOINT(j.id, j.sg))
  return {'OK'}
end
