-- Shared by all scripts. scripts.cc puts the names and options that it and keys.cc write before this text, and the scripts
-- behind it, and loads all of that as one Redis function library, whose tables and functions are made once:
--   tables of keys TASKS WAITING TURNS LINES DELAYED by stage and priority, WAKE SHARE SWEEP by stage,
--   key functions JOB EVENTS PROGRESS CHECKPOINT VIDEOS VIDEO SEGMENT LINE REQUEST,
--   keys JOBS DEADLINES UNFINISHED EXPIRY DEAD RATE WORKERS WORKER_INFO, channel CHANNEL,
--   options LEASE_MS MAX_ATTEMPTS …
-- A script is a file that returns a function of ARGV; what stands before that is made once, too, and keeps nothing between
-- calls. KEYS is never used: all names come from keys.cc.
-- All times are microseconds since 1970 by this server's clock; nothing that is compared comes from another machine.
-- States, stages, priorities and counters are kept as text, which is what commands and records want: making text of numbers
-- costs more than most commands. Numbers become text by int() only: joining them to text would round to 14 digits.

local call, pcall, format, match  -- not there yet while a library is loaded
local now  -- as a number
local NOW  -- as text

-- Runs before each script.
local function begin()
  if not call then call, pcall, format, match = redis.call, redis.pcall, string.format, string.match end
  local clock = call('TIME')
  now = clock[1] * 1000000 + clock[2]
  NOW = format('%d', now)
end

local GROUP = 'w'
local QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED, EXPIRED = '1', '2', '3', '4', '5', '6'
local STATE_CHANGED, STAGE_STARTED, MADE_PROGRESS, PREVIEWED, STAGE_FINISHED, RETRIED = '1', '2', '3', '4', '5', '6'
local DECODING = '3'
local STAGES = {'1', '2', '3'}
local PRIORITIES = {'1', '2'}  -- interactive, batch

local function int(number) return format('%d', number) end

-- The small fields of a job live in one field, its core: reading and writing twenty fields would cost more than all else.
-- Words in this order, '-' for nothing. All are text: count with them (f + 1 is a number), but compare only after tonumber.
--   st state, sg stage, pr priority, ws where the task is ('w' waiting, 'd' delayed, 'l' leased), at attempt, fr fraction,
--   vg video generation, f[stage] failures of the stage, sb times sent back, seq newest event, cx '1' when cancelled,
--   en enqueue time, dl deadline, le entry, wk worker, av workers to avoid, joined by \31
local CORE = '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$'

-- The job, with its tenant tn and request id rk; nil when there is none. Change it, then save(j). Fields named in `more`
-- come as j.more[4], j.more[5], …
local function load(id, more)
  local key = JOB(id)
  local v = more and call('HMGET', key, 'c', 'tn', 'rk', unpack(more)) or call('HMGET', key, 'c', 'tn', 'rk')
  if not v[1] then return nil end
  local st, sg, pr, ws, at, fr, vg, f1, f2, f3, sb, seq, cx, en, dl, le, wk, av = match(v[1], CORE)
  return {id = id, key = key, tn = v[2], rk = v[3], more = v, st = st, sg = sg, pr = pr, ws = ws, at = at, fr = fr,
    vg = vg, f = {['1'] = f1, ['2'] = f2, ['3'] = f3}, sb = sb, seq = seq, cx = cx, en = en, dl = dl, le = le, wk = wk,
    av = av}
end

-- Writes the core, and the fields and values that follow.
local function save(j, ...)
  local f = j.f
  call('HSET', j.key, 'c', j.st .. ' ' .. j.sg .. ' ' .. j.pr .. ' ' .. j.ws .. ' ' .. j.at .. ' ' .. j.fr .. ' ' ..
    j.vg .. ' ' .. f['1'] .. ' ' .. f['2'] .. ' ' .. f['3'] .. ' ' .. j.sb .. ' ' .. j.seq .. ' ' .. j.cx .. ' ' .. j.en ..
    ' ' .. j.dl .. ' ' .. j.le .. ' ' .. j.wk .. ' ' .. j.av, ...)
end

local function finished(j) return j.st ~= QUEUED and j.st ~= RUNNING end

-- Appends the event to the job's stream and tells the watchers. error: {reason, message, sg, n, worker} or nil.
-- The caller must save(j) afterwards: the sequence is part of it.
local function publish(j, type, error, details)
  j.seq = int(j.seq + 1)
  local text = '1 ' .. j.id .. ' ' .. j.seq .. ' ' .. NOW .. ' ' .. type .. ' ' .. j.st .. ' ' .. j.sg .. ' ' .. j.at ..
    ' ' .. j.fr
  if error then
    text = text .. ' ' .. error.sg .. ' ' .. error.n .. ' ' .. #error.reason .. ' ' .. #error.message .. ' ' ..
      #error.worker .. '\n' .. error.reason .. error.message .. error.worker .. (details or '')
  else
    text = text .. ' 0 0 0 0 0\n' .. (details or '')
  end
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
  if call('LLEN', WAKE[sg]) == 0 then call('LPUSH', WAKE[sg], '1') end
end

-- Makes the task claimable, behind the tasks of its tenant with an earlier enqueue time (text).
local function enqueue(j, en)
  j.ws = 'w'
  j.en = en
  call('ZADD', WAITING[j.sg][j.pr], en, j.id)
  if call('ZADD', LINE(j.sg, j.pr, j.tn), en, j.id) == 1 then
    -- A tenant that comes (back) waits for one round of the others.
    local turns = TURNS[j.sg][j.pr]
    local first = call('ZRANGE', turns, '0', '0', 'WITHSCORES')
    call('ZADD', turns, 'NX', first[2] and int(first[2] + 1) or '0', j.tn)
  end
  wake(j.sg)
end

local function delay(j, due)
  j.ws = 'd'
  call('ZADD', DELAYED[j.sg][j.pr], due, j.id)
end

local function leave_line(sg, pr, tn, id)
  call('ZREM', WAITING[sg][pr], id)
  call('ZREM', LINE(sg, pr, tn), id)
  if call('EXISTS', LINE(sg, pr, tn)) == 0 then call('ZREM', TURNS[sg][pr], tn) end
end

local function unqueue(j)
  if j.ws == 'w' then
    leave_line(j.sg, j.pr, j.tn, j.id)
  elseif j.ws == 'd' then
    call('ZREM', DELAYED[j.sg][j.pr], j.id)
  else
    return
  end
  j.ws = '-'
end

local function promote(sg)
  for _, pr in ipairs(PRIORITIES) do
    local due = call('ZRANGEBYSCORE', DELAYED[sg][pr], '-inf', NOW, 'WITHSCORES', 'LIMIT', '0', '50')
    for i = 1, #due, 2 do
      call('ZREM', DELAYED[sg][pr], due[i])
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

-- Removes the lease. When its own holder ends it, its token must be saved as field dn.
local function end_lease(j)
  local tasks = TASKS[j.sg][j.pr]
  call('XACK', tasks, GROUP, j.le)
  call('XDEL', tasks, j.le)
  j.ws = '-'
end

-- ARGV 1 to 6 of every script with a lease: job id, stage, priority, entry, worker, delivery count.
-- The job when the lease is held, and its token; otherwise nil and 'DONE' (this very lease was ended by its holder
-- before) or 'LOST'.
local function fence(ARGV)
  local sg, pr = ARGV[2], ARGV[3]
  local p = pcall('XPENDING', TASKS[sg][pr], GROUP, ARGV[4], ARGV[4], '1')
  local j = load(ARGV[1])
  if not j then return nil, 'LOST' end
  local mine = token(ARGV[4], ARGV[6], ARGV[5])
  local row = not p.err and p[1]
  if row and row[2] == ARGV[5] and row[4] == tonumber(ARGV[6]) and j.ws == 'l' and j.le == ARGV[4] and j.sg == sg and
    j.st == RUNNING then
    return j, mine
  end
  return nil, call('HGET', j.key, 'dn') == mine and 'DONE' or 'LOST'
end

-- True while the holder of the job's task may still be at work.
local function held(j)
  if j.ws ~= 'l' then return false end
  local p = pcall('XPENDING', TASKS[j.sg][j.pr], GROUP, j.le, j.le, '1')
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
  if call('HINCRBY', UNFINISHED, j.tn, '-1') <= 0 then call('HDEL', UNFINISHED, j.tn) end
end

local function count_finish()
  local bucket = math.floor(now / RATE_BUCKET)
  if call('HINCRBY', RATE, int(bucket), '1') == 1 then
    for _, old in ipairs(call('HKEYS', RATE)) do
      if tonumber(old) < bucket - RATE_BUCKETS then call('HDEL', RATE, old) end
    end
  end
end

-- Moves an unfinished job to its final state and saves it. Lease, waiting place and checkpoints go; everything that stays
-- expires together. `ended`: token of the lease whose holder does this. `video`: record of the video.
local function finalize(j, st, error, details, ended, video)
  unqueue(j)
  if j.ws == 'l' then end_lease(j) end
  local expire = now + (st == FAILED and DEAD_RETENTION or RETENTION)
  local xt, at = int(expire), int(math.ceil(expire / 1000))
  j.st = st
  if st == SUCCEEDED then j.fr = '1' end
  publish(j, STATE_CHANGED, error, details)
  local fields = {'ft', NOW, 'xt', xt, 'dn', ended or ''}
  if error then
    for _, word in ipairs({'er', error.reason, 'em', error.message, 'es', error.sg, 'ea', error.n, 'ew', error.worker}) do
      fields[#fields + 1] = word
    end
  end
  if video then
    fields[#fields + 1] = 'vd'
    fields[#fields + 1] = video
  end
  save(j, unpack(fields))
  leave_place(j)
  count_finish()
  call('ZADD', EXPIRY, xt, j.id)
  if st == FAILED then call('ZADD', DEAD, NOW, j.id) end
  call('UNLINK', CHECKPOINT(j.id, '1'), CHECKPOINT(j.id, '2'), CHECKPOINT(j.id, '3'))
  call('PEXPIREAT', j.key, at)
  call('PEXPIREAT', EVENTS(j.id), at)
  call('PEXPIREAT', PROGRESS(j.id), at)
  if j.rk ~= '' then call('PEXPIREAT', REQUEST(j.tn, j.rk), at) end
  local vg = tonumber(j.vg)
  if vg > 0 then
    if st == SUCCEEDED then expire_videos(j.id, vg, at) else expire_videos(j.id) end
  end
end

-- CANCELLED or EXPIRED if that is due; true if the job is finished now.
local function stop_if_due(j, ended)
  if j.cx == '1' then
    finalize(j, CANCELLED, nil, nil, ended)
    return true
  end
  if tonumber(j.dl) <= now then
    finalize(j, EXPIRED, {reason = 'DEADLINE_EXCEEDED', message = 'the job was not finished before its deadline',
      sg = j.sg, n = j.at, worker = j.wk == '-' and '' or j.wk}, nil, ended)
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
  call('UNLINK', JOB(id), EVENTS(id), PROGRESS(id), CHECKPOINT(id, '1'), CHECKPOINT(id, '2'), CHECKPOINT(id, '3'), VIDEOS(id))
  call('ZREM', JOBS, id)
  call('ZREM', EXPIRY, id)
  call('ZREM', DEAD, id)
end
