#!lua
-- Appends bytes to one generation of a video, cut into segments of a fixed size. No allow-oom: a full server refuses
-- this script before it writes anything.
-- KEYS: none (see keys.cc).
-- ARGV: 1 job id, 2 generation, 3 offset (the size so far), 4 bytes of a segment, 5 time to live in ms, 6 data
-- Result: {'OK'} | {'OFFSET', size} | {'STALE'} (the job is finished or a later generation exists) | {'SEALED'}
return function(ARGV)
  local id, g, ttl, data = ARGV[1], ARGV[2], ARGV[5], ARGV[6]
  local size_limit = tonumber(ARGV[4])
  local job = load(id)
  if job and (finished(job) or tonumber(job.vg) > tonumber(g)) then return {'STALE'} end
  local v = call('HMGET', VIDEO(id, g), 's', 'd')
  local size = tonumber(v[1] or 0)
  if size ~= tonumber(ARGV[3]) then return {'OFFSET', int(size)} end
  if v[2] then return {'SEALED'} end
  local taken = 0
  while taken < #data do
    local segment = math.floor(size / size_limit)
    local part = math.min(#data - taken, (segment + 1) * size_limit - size)
    call('APPEND', SEGMENT(id, g, int(segment)), string.sub(data, taken + 1, taken + part))
    call('PEXPIRE', SEGMENT(id, g, int(segment)), ttl)
    taken = taken + part
    size = size + part
  end
  call('HSET', VIDEO(id, g), 's', int(size), 'n', int(math.ceil(size / size_limit)), 'l', ARGV[4])
  call('PEXPIRE', VIDEO(id, g), ttl)
  call('SADD', VIDEOS(id), g)
  call('PEXPIRE', VIDEOS(id), ttl)
  return {'OK'}
end
