#!lua
-- Makes a dead letter QUEUED again in the stage where it failed, with fresh attempts and a fresh deadline.
-- KEYS: none (see keys.cc).  ARGV: 1 job id
-- Result: {'OK'} | {'NONE'} | {'NOT_DEAD'}
return function(ARGV)
  local id = ARGV[1]
  local j = load(id)
  if not j then return {'NONE'} end
  if j.st ~= FAILED or not call('ZSCORE', DEAD, id) then return {'NOT_DEAD'} end
  call('ZREM', DEAD, id)
  call('ZREM', EXPIRY, id)
  for _, key in ipairs({JOB(id), EVENTS(id), PROGRESS(id)}) do call('PERSIST', key) end
  if j.rk ~= '' then call('PERSIST', REQUEST(j.tn, j.rk)) end
  call('HDEL', JOB(id), 'er', 'em', 'es', 'ea', 'ew', 'ft', 'xt', 'sta', 'o1', 'o2', 'o3')
  j.st = QUEUED
  j.at = '1'
  j.dl = int(now + call('HGET', JOB(id), 'to'))
  j.cx = '0'
  j.av = '-'
  j.sb = '0'
  j.f = {['1'] = '0', ['2'] = '0', ['3'] = '0'}
  publish(j, STATE_CHANGED)
  call('ZADD', DEADLINES, j.dl, id)
  call('HINCRBY', UNFINISHED, j.tn, 1)
  enqueue(j, NOW)
  save(j, 'dn', '')
  return {'OK'}
end
