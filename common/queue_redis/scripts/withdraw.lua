#!lua flags=allow-oom
-- Takes a job back that was accepted but could not be made safe on enough replicas, if no worker has begun it.
-- KEYS: none (see keys.cc).  ARGV: 1 job id
-- Result: {'OK'} | {'STAYS'}
return function(ARGV)
  local j = load(ARGV[1])
  if not j or j.st ~= QUEUED or j.ws ~= 'w' then return {'STAYS'} end
  unqueue(j)
  leave_place(j)
  erase(j.id)
  return {'OK'}
end
