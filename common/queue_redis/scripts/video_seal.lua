#!lua flags=allow-oom
-- Makes one generation of a video final.
-- KEYS: none (see keys.cc).  ARGV: 1 job id, 2 generation
-- Result: {'OK'} | {'NONE'}
return function(ARGV)
  if call('EXISTS', VIDEO(ARGV[1], ARGV[2])) == 0 then return {'NONE'} end
  call('HSET', VIDEO(ARGV[1], ARGV[2]), 'd', 1)
  return {'OK'}
end
