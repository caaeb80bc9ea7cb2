-- Appends one event to a run's log, atomically: find a repeat, refuse, number, add, keep the
-- TTL right.
-- KEYS[1]  the log
-- KEYS[2]  hash: idempotency key -> id of the event that it appended
-- KEYS[3]  sorted set: the same keys by the sequence of their event, to forget the oldest
-- ARGV     1 maxlen, 2 TTL of an ended run (ms), 3 idle TTL (ms), 4 timestamp,
--          5 category, 6 action, 7 data (JSON), 8 source (JSON), 9 idempotency key,
--          10 expected sequence, 11 lease (s); each of 8 to 11 is '' for none
-- Returns  {'added', id, sequence}
--          {'repeated', id, sequence, timestamp} of the event that the key appended before
--          {'key reused', its id} where that event is another one
--          {'unexpected', last sequence}
--          {'ended', id of the last entry}

local log, keys, order = KEYS[1], KEYS[2], KEYS[3]
local key, expected, lease = ARGV[9], ARGV[10], ARGV[11]
local terminal = {completed = true, failed = true, cancelled = true, lost = true}

local function is_terminal(category, action)
  return category == 'lifecycle' and terminal[action] == true
end

local function by_name(pairs)
  local fields = {}
  for i = 1, #pairs, 2 do fields[pairs[i]] = pairs[i + 1] end
  return fields
end

if key ~= '' then
  local id = redis.call('HGET', keys, key)
  local entry = id and redis.call('XRANGE', log, id, id)[1]
  if entry then
    local first = by_name(entry[2])
    if first.event_category == ARGV[5] and first.event_action == ARGV[6]
       and first.data == ARGV[7] and (first.source or '') == ARGV[8] then
      return {'repeated', id, tonumber(first.sequence), first.timestamp}
    end
    return {'key reused', id}
  end
end

local added, first_entry, last_entry = 0, false, false
if redis.call('EXISTS', log) == 1 then
  local info = by_name(redis.call('XINFO', 'STREAM', log))
  added, first_entry, last_entry = info['entries-added'], info['first-entry'], info['last-entry']
  if not added then return {'too old'} end
end

if expected ~= '' and added + 1 ~= tonumber(expected) then return {'unexpected', added} end

if last_entry then
  local last = by_name(last_entry[2])
  if is_terminal(last.event_category, last.event_action) then
    if ARGV[5] ~= 'lifecycle' or ARGV[6] ~= 'started' then return {'ended', last_entry[1]} end
  elseif lease == '' then
    lease = last.lease_seconds or ''
  end
end

-- entries-added outlives trimming and deletion, so no sequence is ever given twice.
local sequence = added + 1
local entry = {'timestamp', ARGV[4], 'sequence', string.format('%.0f', sequence),
               'event_category', ARGV[5], 'event_action', ARGV[6], 'data', ARGV[7]}
if ARGV[8] ~= '' then
  entry[#entry + 1] = 'source'
  entry[#entry + 1] = ARGV[8]
end
if lease ~= '' then
  entry[#entry + 1] = 'lease_seconds'
  entry[#entry + 1] = lease
end
local id = redis.call('XADD', log, 'MAXLEN', '~', ARGV[1], '*', unpack(entry))

local function keep_for(ttl)
  redis.call('PEXPIRE', log, ttl)
  redis.call('PEXPIRE', keys, ttl)
  redis.call('PEXPIRE', order, ttl)
end

if key ~= '' then
  redis.call('HSET', keys, key, id)
  redis.call('ZADD', order, sequence, key)
  -- A key is kept as long as its event: with every new one, a few of trimmed events go.
  local retained = first_entry and tonumber(by_name(first_entry[2]).sequence)
  if retained then
    local gone = redis.call('ZRANGEBYSCORE', order, '-inf', '(' .. retained, 'LIMIT', 0, 8)
    if #gone > 0 then
      redis.call('HDEL', keys, unpack(gone))
      redis.call('ZREM', order, unpack(gone))
    end
  end
  local ttl = redis.call('PTTL', log)
  if ttl > 0 then keep_for(ttl) end
end

if is_terminal(ARGV[5], ARGV[6]) then
  keep_for(ARGV[2])
else
  -- Renewed only once an hour of it (a tenth, of a short one) is used up, so that most
  -- appends write no TTL; and never shortened.
  local idle = tonumber(ARGV[3])
  if redis.call('PTTL', log) < idle - math.min(3600000, idle / 10) then
    keep_for(ARGV[3])
  end
end
return {'added', id, sequence}
