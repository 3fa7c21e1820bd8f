#!lua flags=allow-oom
-- Cancels a job: at once when no worker holds its task, otherwise as soon as the worker acknowledges.
-- KEYS: none (see keys.cc).  ARGV: 1 job id
-- Result: {'OK'} (also when it was finished already) | {'NONE'}
return function(ARGV)
  local j = load(ARGV[1])
  if not j then return {'NONE'} end
  if finished(j) then return {'OK'} end
  j.cx = '1'
  if held(j) then save(j) else stop_if_due(j) end
  return {'OK'}
end
