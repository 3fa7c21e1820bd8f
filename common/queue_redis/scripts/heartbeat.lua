#!lua flags=allow-oom
-- Remembers a worker.
-- KEYS: none (see keys.cc).  ARGV: 1 worker, 2 record
-- Result: {'OK'}
return function(ARGV)
  call('ZADD', WORKERS, int(now), ARGV[1])
  call('HSET', WORKER_INFO, ARGV[1], ARGV[2])
  return {'OK'}
end
