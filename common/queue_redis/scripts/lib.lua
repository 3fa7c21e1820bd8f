-- Shared by all scripts: put in front of each, behind the names and options that keys.cc and scripts.cc write:
--   key functions JOB EVENTS PROGRESS CHECKPOINT VIDEOS VIDEO SEGMENT TASKS WAITING TURNS LINE DELAYED WAKE SHARE SWEEP
--   REQUEST, keys JOBS DEADLINES UNFINISHED EXPIRY DEAD RATE WORKERS WORKER_INFO, channel CHANNEL,
--   options LEASE_MS MAX_ATTEMPTS …
-- All times are microseconds since 1970 by this server's clock; nothing that is compared comes from another machine.
-- Numbers that are joined to text go through int(): Lua would round them to 14 digits.

local call = redis.call
local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2]

local GROUP = 'w'
local QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED, EXPIRED = 1, 2, 3, 4, 5, 6
local STATE_CHANGED, STAGE_STARTED, MADE_PROGRESS, PREVIEWED, STAGE_FINISHED, RETRIED = 1, 2, 3, 4, 5, 6

local function int(number) return string.format('%.0f', number) end

-- The fields of a job that transitions look at; nil when there is no such job. Changes gather in j.set until save(j).
local function load(id)
  local v = call('HMGET', JOB(id), 'st', 'sg', 'pr', 'tn', 'ws', 'en', 'le', 'wk', 'cx', 'dl', 'at', 'fr', 'vg',
    'f1', 'f2', 'f3', 'sb', 'rk', 'seq', 'dn', 'av')
  if not v[1] then return nil end
  return {id = id, st = tonumber(v[1]), sg = tonumber(v[2]), pr = tonumber(v[3]), tn = v[4], ws = v[5], en = v[6],
    le = v[7], wk = v[8], cx = v[9], dl = tonumber(v[10]), at = tonumber(v[11]), fr = v[12], vg = tonumber(v[13]),
    f = {tonumber(v[14]), tonumber(v[15]), tonumber(v[16])}, sb = tonumber(v[17]), rk = v[18], seq = tonumber(v[19]),
    dn = v[20], av = v[21], set = {}}
end

local function put(j, field, value)
  local set = j.set
  set[#set + 1] = field
  set[#set + 1] = value
end

local function save(j)
  if #j.set > 0 then call('HSET', JOB(j.id), unpack(j.set)) end
  j.set = {}
end

local function finished(j) return j.st ~= QUEUED and j.st ~= RUNNING end

-- Appends the event to the job's stream and tells the watchers. error: {reason, message, sg, n, worker} or nil.
-- The caller must save(j): the sequence is part of it.
local function publish(j, type, error, details)
  j.seq = j.seq + 1
  put(j, 'seq', j.seq)
  local e = error or {reason = '', message = '', sg = 0, n = 0, worker = ''}
  local text = table.concat({'1', j.id, j.seq, int(now), type, j.st, j.sg, j.at, j.fr, e.sg, e.n, #e.reason, #e.message,
    #e.worker}, ' ') .. '\n' .. e.reason .. e.message .. e.worker .. (details or '')
  if type == MADE_PROGRESS then
    call('XADD', PROGRESS(j.id), 'MAXLEN', MAX_PROGRESS, j.seq .. '-0', 'e', text)
  else
    call('XADD', EVENTS(j.id), j.seq .. '-0', 'e', text)
  end
  call('PUBLISH', CHANNEL, text)
end

-- --- waiting lines

-- Lets one blocked worker of the stage look again. One token is enough: whoever claims passes it on.
local function wake(sg)
  if call('LLEN', WAKE(sg)) == 0 then call('LPUSH', WAKE(sg), '1') end
end

-- Makes the task claimable, behind the tasks of its tenant with an earlier enqueue time.
local function enqueue(j, en)
  j.ws = 'w'
  j.en = en
  put(j, 'ws', 'w')
  put(j, 'en', en)
  call('ZADD', WAITING(j.sg, j.pr), en, j.id)
  if call('ZADD', LINE(j.sg, j.pr, j.tn), en, j.id) == 1 then
    -- A tenant that comes (back) waits for one round of the others.
    local turns = TURNS(j.sg, j.pr)
    local first = call('ZRANGE', turns, 0, 0, 'WITHSCORES')
    call('ZADD', turns, 'NX', first[2] and first[2] + 1 or 0, j.tn)
  end
  wake(j.sg)
end

local function delay(j, due)
  j.ws = 'd'
  put(j, 'ws', 'd')
  call('ZADD', DELAYED(j.sg, j.pr), due, j.id)
end

local function leave_line(sg, pr, tn, id)
  call('ZREM', WAITING(sg, pr), id)
  call('ZREM', LINE(sg, pr, tn), id)
  if call('EXISTS', LINE(sg, pr, tn)) == 0 then call('ZREM', TURNS(sg, pr), tn) end
end

local function unqueue(j)
  if j.ws == 'w' then
    leave_line(j.sg, j.pr, j.tn, j.id)
  elseif j.ws == 'd' then
    call('ZREM', DELAYED(j.sg, j.pr), j.id)
  else
    return
  end
  j.ws = ''
  put(j, 'ws', '')
end

local function promote(sg)
  for pr = 1, 2 do
    local due = call('ZRANGEBYSCORE', DELAYED(sg, pr), '-inf', now, 'WITHSCORES', 'LIMIT', 0, 50)
    for i = 1, #due, 2 do
      call('ZREM', DELAYED(sg, pr), due[i])
      local j = load(due[i])
      if j and j.ws == 'd' then
        enqueue(j, due[i + 1])
        save(j)
      end
    end
  end
end

-- --- leases

local function token(entry, delivery, worker) return entry .. ' ' .. delivery .. ' ' .. worker end

-- Removes the lease; `ended` is its token when its own holder ends it.
local function end_lease(j, ended)
  call('XACK', TASKS(j.sg, j.pr), GROUP, j.le)
  call('XDEL', TASKS(j.sg, j.pr), j.le)
  j.ws = ''
  put(j, 'ws', '')
  put(j, 'dn', ended or '')
end

-- ARGV 1 to 6 of every script with a lease: job id, stage, priority, entry, worker, delivery count.
-- The job when the lease is held, and its token; otherwise nil and 'DONE' (this very lease was ended by its holder
-- before) or 'LOST'.
local function fence()
  local sg, pr = tonumber(ARGV[2]), tonumber(ARGV[3])
  local p = redis.pcall('XPENDING', TASKS(sg, pr), GROUP, ARGV[4], ARGV[4], 1)
  local j = load(ARGV[1])
  if not j then return nil, 'LOST' end
  local mine = token(ARGV[4], ARGV[6], ARGV[5])
  local row = not p.err and p[1]
  if row and row[2] == ARGV[5] and row[4] == tonumber(ARGV[6]) and j.ws == 'l' and j.le == ARGV[4] and j.sg == sg and
    j.st == RUNNING then
    return j, mine
  end
  return nil, j.dn == mine and 'DONE' or 'LOST'
end

-- True while the holder of the job's task may still be at work.
local function held(j)
  if j.ws ~= 'l' then return false end
  local p = redis.pcall('XPENDING', TASKS(j.sg, j.pr), GROUP, j.le, j.le, 1)
  local row = not p.err and p[1]
  return row and row[3] < LEASE_MS
end

-- --- the end of a job

-- Lets the video's keys live until `at` (nil: not at all), or only those of generation `keep` if it is given.
local function expire_videos(id, keep, at)
  for _, g in ipairs(call('SMEMBERS', VIDEOS(id))) do
    local n = tonumber(call('HGET', VIDEO(id, g), 'n') or 0)
    local lives = at and tonumber(g) == keep
    for i = 0, n - 1 do
      if lives then call('PEXPIREAT', SEGMENT(id, g, i), at) else call('UNLINK', SEGMENT(id, g, i)) end
    end
    if lives then
      call('PEXPIREAT', VIDEO(id, g), at)
    else
      call('UNLINK', VIDEO(id, g))
      call('SREM', VIDEOS(id), g)
    end
  end
  if at then call('PEXPIREAT', VIDEOS(id), at) end
end

-- One unfinished job less: for admission, and for the service rate.
local function leave_place(j)
  call('ZREM', DEADLINES, j.id)
  if call('HINCRBY', UNFINISHED, j.tn, -1) <= 0 then call('HDEL', UNFINISHED, j.tn) end
end

local function count_finish()
  local bucket = math.floor(now / RATE_BUCKET)
  if call('HINCRBY', RATE, int(bucket), 1) == 1 then
    for _, old in ipairs(call('HKEYS', RATE)) do
      if tonumber(old) < bucket - RATE_BUCKETS then call('HDEL', RATE, old) end
    end
  end
end

-- Moves an unfinished job to its final state. Lease, waiting place and checkpoints go; everything that stays expires
-- together. `ended`: token of the lease whose holder does this.
local function finalize(j, st, error, details, ended)
  unqueue(j)
  if j.ws == 'l' then end_lease(j, ended) end
  local expire = now + (st == FAILED and DEAD_RETENTION or RETENTION)
  j.st = st
  put(j, 'st', st)
  put(j, 'ft', now)
  put(j, 'xt', expire)
  if st == SUCCEEDED then
    j.fr = '1'
    put(j, 'fr', '1')
  end
  if error then
    put(j, 'er', error.reason)
    put(j, 'em', error.message)
    put(j, 'es', error.sg)
    put(j, 'ea', error.n)
    put(j, 'ew', error.worker)
  end
  publish(j, STATE_CHANGED, error, details)
  save(j)
  leave_place(j)
  count_finish()
  call('ZADD', EXPIRY, expire, j.id)
  if st == FAILED then call('ZADD', DEAD, now, j.id) end
  call('UNLINK', CHECKPOINT(j.id, 1), CHECKPOINT(j.id, 2), CHECKPOINT(j.id, 3))
  local at = int(math.ceil(expire / 1000))
  call('PEXPIREAT', JOB(j.id), at)
  call('PEXPIREAT', EVENTS(j.id), at)
  call('PEXPIREAT', PROGRESS(j.id), at)
  if j.rk ~= '' then call('PEXPIREAT', REQUEST(j.tn, j.rk), at) end
  if j.vg > 0 then
    if st == SUCCEEDED then expire_videos(j.id, j.vg, at) else expire_videos(j.id) end
  end
end

-- CANCELLED or EXPIRED if that is due; true if the job is finished now.
local function stop_if_due(j, ended)
  if j.cx == '1' then
    finalize(j, CANCELLED, nil, nil, ended)
    return true
  end
  if j.dl <= now then
    finalize(j, EXPIRED, {reason = 'DEADLINE_EXCEEDED', message = 'the job was not finished before its deadline',
      sg = j.sg, n = j.at, worker = j.wk}, nil, ended)
    return true
  end
  return false
end

-- Removes every trace of a finished job.
local function erase(id)
  local v = call('HMGET', JOB(id), 'tn', 'rk')
  if v[1] and v[2] ~= '' then
    local request = call('GET', REQUEST(v[1], v[2]))
    if request and string.sub(request, 1, #id) == id then call('DEL', REQUEST(v[1], v[2])) end
  end
  expire_videos(id)
  call('UNLINK', JOB(id), EVENTS(id), PROGRESS(id), CHECKPOINT(id, 1), CHECKPOINT(id, 2), CHECKPOINT(id, 3), VIDEOS(id))
  call('ZREM', JOBS, id)
  call('ZREM', EXPIRY, id)
  call('ZREM', DEAD, id)
end
