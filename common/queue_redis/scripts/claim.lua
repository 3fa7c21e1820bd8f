#!lua flags=allow-oom
-- Leases one task of a stage: one whose lease ended, else a waiting one.
-- KEYS: none (see keys.cc).  ARGV: 1 stage, 2 worker, 3 '1' if the worker was woken by a token
-- Result: {1, entry, priority, delivery count, job id, tenant, spec, attempt, deadline, enqueue time, output of stage 1
--          or nil, output of stage 2 or nil, avoided workers, 1 if reclaimed, video generation}
--         | {0, us after which it is worth to look again even if nobody woke us; -1: unknown}
local TASK = {'spec', 'l1', 'l2'}

local function grant(sg, worker, woken, j, entry, delivery, reclaimed)
  j.ws = 'l'
  j.le = entry
  j.wk = worker
  j.at = int(j.f[sg] + 1)
  if sg == DECODING then j.vg = int(j.vg + 1) end
  if j.st == QUEUED then
    j.st = RUNNING
    publish(j, STATE_CHANGED)
    publish(j, STAGE_STARTED)
    save(j, 'sta', NOW)
  else
    publish(j, STAGE_STARTED)
    save(j)
  end
  -- Who took the token passes it on.
  if woken == '1' and call('EXISTS', WAITING[sg]['1'], WAITING[sg]['2']) > 0 then wake(sg) end
  local more = j.more
  return {1, entry, j.pr, delivery, j.id, j.tn, more[4], j.at, j.dl, j.en, more[5], more[6], j.av, reclaimed,
    sg == DECODING and j.vg or 0}
end

-- A task whose lease ended, or nil. Ends jobs that were cancelled, are late or have no attempt left on the way.
local function reclaim(sg, worker, woken)
  for _, pr in ipairs(PRIORITIES) do
    local tasks = TASKS[sg][pr]
    local ended = pcall('XPENDING', tasks, GROUP, 'IDLE', LEASE_MS, '-', '+', '20')
    if ended.err then ended = {} end
    for _, row in ipairs(ended) do
      local entry, delivery = row[1], row[4] + 1
      local claimed = call('XCLAIM', tasks, GROUP, worker, LEASE_MS, entry)
      local j = claimed[1] and load(claimed[1][2][2], TASK)
      if not j or j.ws ~= 'l' or j.le ~= entry then
        call('XACK', tasks, GROUP, entry)
        call('XDEL', tasks, entry)
      elseif not stop_if_due(j) then
        local failures = j.f[sg] + 1
        j.f[sg] = int(failures)
        local lost = {reason = 'WORKER_LOST', message = 'the lease of worker ' .. row[2] .. ' ended', sg = sg,
          n = j.f[sg], worker = row[2]}
        if failures >= MAX_ATTEMPTS then
          lost.reason = 'ATTEMPTS_EXHAUSTED'
          finalize(j, FAILED, lost)
        else
          j.at = int(failures + 1)
          publish(j, RETRIED, lost)
          return grant(sg, worker, woken, j, entry, delivery, 1)
        end
      end
    end
  end
  return nil
end

local function avoided(j, worker)
  return j.av ~= '-' and now < j.en + AVOID and
    string.find('\31' .. j.av .. '\31', '\31' .. worker .. '\31', 1, true) ~= nil
end

-- The task that is next by the turns of the tenants and that this worker need not avoid, out of its line; or nil.
local function pick(sg, pr, worker)
  local turns = TURNS[sg][pr]
  for n = 0, 31 do
    local place = int(n)
    local tn = call('ZRANGE', turns, place, place)[1]
    if not tn then return nil end
    local line = LINE(sg, pr, tn)
    local ids = call('ZRANGE', line, '0', '1')
    local i = 1
    while ids[i] do
      local j = load(ids[i], TASK)
      if not j then
        leave_line(sg, pr, tn, ids[i])
      elseif not avoided(j, worker) then
        call('ZREM', WAITING[sg][pr], j.id)
        call('ZREM', line, j.id)
        if ids[2] then call('ZINCRBY', turns, '1', tn) else call('ZREM', turns, tn) end
        j.ws = '-'
        return j
      end
      if i == 1 and ids[2] then ids = call('ZRANGE', line, '0', '31') end
      i = i + 1
    end
  end
  return nil
end

local function next_waiting(sg, worker)
  local oldest = call('ZRANGE', WAITING[sg]['2'], '0', '0', 'WITHSCORES')
  local first, second = '1', '2'
  if oldest[2] and now - oldest[2] > BATCH_AGEING and call('INCR', SHARE[sg]) % BATCH_SHARE == 0 then
    first, second = '2', '1'
  end
  return pick(sg, first, worker) or pick(sg, second, worker)
end

local function lease_waiting(sg, worker, woken)
  local j = next_waiting(sg, worker)
  while j do
    if not stop_if_due(j) then
      local tasks = TASKS[sg][j.pr]
      local entry = call('XADD', tasks, '*', 'j', j.id)
      -- What a read by the group would do, but for exactly this entry.
      local got = pcall('XCLAIM', tasks, GROUP, worker, '0', entry, 'FORCE', 'RETRYCOUNT', '1', 'JUSTID', 'LASTID', entry)
      if got.err then
        call('XGROUP', 'CREATE', tasks, GROUP, '0')
        call('XCLAIM', tasks, GROUP, worker, '0', entry, 'FORCE', 'RETRYCOUNT', '1', 'JUSTID', 'LASTID', entry)
      end
      return grant(sg, worker, woken, j, entry, 1, 0)
    end
    j = next_waiting(sg, worker)
  end
  return nil
end

-- Under load, leases and backoffs are looked at every SWEEP_EVERY; when there is nothing else to do, every time.
local function sweep(sg, worker, woken)
  local lease = reclaim(sg, worker, woken)
  if lease then return lease end
  promote(sg)
  call('SET', SWEEP[sg], int(now + SWEEP_EVERY))
  return nil
end

return function(ARGV)
  local sg, worker, woken = ARGV[1], ARGV[2], ARGV[3]
  local swept = false
  if now >= tonumber(call('GET', SWEEP[sg]) or 0) then
    local lease = sweep(sg, worker, woken)
    if lease then return lease end
    swept = true
  end
  local lease = lease_waiting(sg, worker, woken)
  if not lease and not swept then lease = sweep(sg, worker, woken) or lease_waiting(sg, worker, woken) end
  if lease then return lease end

  call('DEL', WAKE[sg])
  local soonest = -1
  for _, pr in ipairs(PRIORITIES) do
    local first = call('ZRANGE', DELAYED[sg][pr], '0', '0', 'WITHSCORES')
    if first[2] and (soonest < 0 or first[2] - now < soonest) then soonest = math.max(0, first[2] - now) end
  end
  return {0, int(soonest)}
end
