#!lua
-- Accepts a job: admission, idempotency, record, first event and waiting place in one step.
-- KEYS: none; the names of the job, its events, its request id and the queue come from keys.cc.
-- ARGV: 1 job id (fresh), 2 spec, 3 tenant, 4 priority, 5 timeout in us, 6 request id or '', 7 payload digest, 8 details of the
-- first event
-- Result: {'NEW', create time, deadline} | {'SAME', job id} | {'CONFLICT', job id}
--         | {'FULL', us until a place should be free} | {'TENANT_FULL', us}
-- Sent again with the same job id it changes nothing and gives the same result.

-- Time until one of `share` jobs in a row should have finished.
local function retry_after(share)
  local bucket = math.floor(now / RATE_BUCKET)
  local count, first = 0, bucket
  local rate = call('HGETALL', RATE)
  for i = 1, #rate, 2 do
    local b = tonumber(rate[i])
    if b >= bucket - RATE_BUCKETS then
      count = count + rate[i + 1]
      first = math.min(first, b)
    end
  end
  local each = 60000000
  if count > 0 then each = math.max(1000000, now - first * RATE_BUCKET) / count * share end
  return int(math.max(1000000, math.min(600000000, each)))
end

return function(ARGV)
  local id, tn, rk = ARGV[1], ARGV[3], ARGV[6]
  local key = JOB(id)
  local mine = call('HGET', key, 'ct')
  if mine then return {'NEW', mine, load(id).dl} end

  if rk ~= '' then
    local request = call('GET', REQUEST(tn, rk))
    if request then
      local other, digest = string.sub(request, 1, #id), string.sub(request, #id + 2)
      if call('EXISTS', JOB(other)) == 1 then
        return {digest == ARGV[7] and 'SAME' or 'CONFLICT', other}
      end
    end
  end

  local total = call('ZCARD', DEADLINES)
  if total >= MAX_UNFINISHED then return {'FULL', retry_after(1)} end
  local of_tenant = tonumber(call('HGET', UNFINISHED, tn) or 0)
  if of_tenant >= MAX_UNFINISHED_PER_TENANT then return {'TENANT_FULL', retry_after(total / of_tenant)} end

  local deadline = int(now + ARGV[5])
  local j = {id = id, key = key, tn = tn, rk = rk, st = QUEUED, sg = '1', pr = ARGV[4], ws = '-', at = '1', fr = '0',
    vg = '0', f = {['1'] = '0', ['2'] = '0', ['3'] = '0'}, sb = '0', seq = '0', cx = '0', en = NOW, dl = deadline, le = '-',
    wk = '-', av = '-'}
  publish(j, STATE_CHANGED, nil, ARGV[8])
  enqueue(j, NOW)
  save(j, 'tn', tn, 'rk', rk, 'spec', ARGV[2], 'to', ARGV[5], 'ct', NOW, 'dn', '')
  if rk ~= '' then call('SET', REQUEST(tn, rk), id .. ' ' .. ARGV[7]) end
  call('ZADD', JOBS, NOW, id)
  call('ZADD', DEADLINES, deadline, id)
  call('HINCRBY', UNFINISHED, tn, '1')
  return {'NEW', NOW, deadline}
end
