#!lua flags=allow-oom
-- Removes the generations of a video.
-- KEYS: none (see keys.cc).  ARGV: 1 job id, 2 generation to keep or ''
-- Result: {'OK'}
return function(ARGV)
  local id, keep = ARGV[1], ARGV[2]
  for _, g in ipairs(call('SMEMBERS', VIDEOS(id))) do
    if g ~= keep then
      local n = tonumber(call('HGET', VIDEO(id, g), 'n') or 0)
      for i = 0, n - 1 do call('UNLINK', SEGMENT(id, g, i)) end
      call('UNLINK', VIDEO(id, g))
      call('SREM', VIDEOS(id), g)
    end
  end
  return {'OK'}
end
