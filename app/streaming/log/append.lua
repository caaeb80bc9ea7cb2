-- Appends events to a run's log, all or none. Finds a repeat by its idempotency key, refuses
-- what may not be appended, numbers the events, and keeps the TTL right.
-- KEYS[1]  the log
-- KEYS[2]  hash: idempotency key -> "id sequence count timestamp" of what it appended; id and
--          sequence are those of the first event
-- KEYS[3]  sorted set: the same keys by the time in their events' ids, to remove the oldest;
--          without an idempotency key, the log is the only key that must be named
-- ARGV     1 maxlen, 2 TTL of an ended run (ms), 3 idle TTL (ms), 4 timestamp,
--          5 idempotency key, 6 expected sequence, 7 lease (s), each of 5 to 7 '' for none;
--          then for each event: category, action, data (JSON), source (JSON, '' for none),
--          traceparent ('' for none)
-- Returns  {'added' or 'repeated', id, sequence, timestamp} of the first event; the ids of the
--          others count up from it; if repeated, also the first event's traceparent ('' for none)
--          {'key reused', id of the first event that was appended with the key}
--          {'unexpected', last sequence}
--          {'ended', id of the last entry}
--          {'full', the last id}: ids or sequences after the last ones would not be exact
--          {'too old', false} on a server older than Redis 7.0

-- A caller may name the log alone: then the other two have their names from it, as in redis_keys.py.
local log = KEYS[1]
local tagged = string.find(log, '{', 1, true) and log or '{' .. log .. '}'
local keys, order = KEYS[2] or tagged .. ':keys', KEYS[3] or tagged .. ':key-order'
local timestamp, key, expected, lease = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local EVENTS_AT = 8  -- the index of the first event in ARGV
local MAX_KEYS_REMOVED = 8  -- by one append
local MAX_EXACT = 9007199254740991  -- 2^53 - 1: Lua's numbers are doubles
local MAX_COUNTER_DIGITS = 15  -- a thousand more than such a counter is exact too
local MAX_TTL_USED_MS = 3600000  -- then the idle TTL is renewed
local EPOCH_GROUP = '^tailrace:(%d+)$'
local EVENT_ARGS = 5
local count = (#ARGV - EVENTS_AT + 1) / EVENT_ARGS

local function is_terminal(category, action)
  return category == 'lifecycle' and (action == 'completed' or action == 'failed'
                                      or action == 'cancelled' or action == 'lost')
end

local function by_name(pairs)
  local fields = {}
  for i = 1, #pairs, 2 do fields[pairs[i]] = pairs[i + 1] end
  return fields
end

local function nth_id(first, n)
  if n == 0 then return first end
  local ms, counter = string.match(first, '^(%d+)-(%d+)$')
  return string.format('%s-%.0f', ms, tonumber(counter) + n)
end

-- A repeat may come from another span, so the traceparent does not count.
local function is_nth_event(entry, n)
  local fields, at = by_name(entry[2]), EVENTS_AT + EVENT_ARGS * n
  return fields.event_category == ARGV[at] and fields.event_action == ARGV[at + 1]
    and fields.data == ARGV[at + 2] and (fields.source or '') == ARGV[at + 3]
end

local known = key ~= '' and redis.call('HGET', keys, key)
if key ~= '' then redis.call('ZSCORE', order, key) end  -- fails before anything is written
if known then
  local id, sequence, appended, when = string.match(known, '^(%S+) (%S+) (%S+) (%S+)$')
  local retained = redis.call('XRANGE', log, id, nth_id(id, appended - 1))
  if #retained > 0 then
    local same = tonumber(appended) == count
    for _, entry in ipairs(retained) do
      local n = tonumber(by_name(entry[2]).sequence) - sequence
      same = same and is_nth_event(entry, n)
    end
    if same then
      local first = retained[1][1] == id and by_name(retained[1][2]) or {}
      return {'repeated', id, tonumber(sequence), when, first.traceparent or ''}
    end
    return {'key reused', id}
  end
end

local added, first_entry, last_entry, last_id = 0, false, false, '0-0'
local ttl = redis.call('PTTL', log)
if ttl ~= -2 then  -- there is a log
  local info = redis.call('XINFO', 'STREAM', log)
  added = nil
  for i = 1, #info, 2 do  -- a table of all fields would make the script measurably slower
    local name = info[i]
    if name == 'entries-added' then added = info[i + 1]
    elseif name == 'first-entry' then first_entry = info[i + 1]
    elseif name == 'last-entry' then last_entry = info[i + 1]
    elseif name == 'last-generated-id' then last_id = info[i + 1] end
  end
  if not added then return {'too old', false} end
end

-- Others may have set any id and any count. What would not be exact is refused before anything is
-- written. A large counter does no harm if the time in the last id is past: the next id has 0.
if added < 0 or added + count > MAX_EXACT then return {'full', last_id} end
if #last_id > MAX_COUNTER_DIGITS + 2 then  -- only then can its counter have more digits
  local ms, counter = string.match(last_id, '^(%d+)-(%d+)$')
  local past = redis.call('TIME')[1] - 1
  if #counter > MAX_COUNTER_DIGITS and ms / 1000 >= past then return {'full', last_id} end
end

if expected ~= '' and added + 1 ~= tonumber(expected) then return {'unexpected', added} end

local ended, epoch = false, nil
if last_entry then
  local last, category, action, leased = last_entry[2], nil, nil, ''
  for i = 1, #last, 2 do
    local name = last[i]
    if name == 'event_category' then category = last[i + 1]
    elseif name == 'event_action' then action = last[i + 1]
    elseif name == 'lease_seconds' then leased = string.match(last[i + 1], '^%d+$') or '' end
  end
  if last[3] == 'sequence' and last[5] == 'epoch' then  -- else it is another program's field
    epoch = string.match(last[6], '^%d+$')
  end
  ended = is_terminal(category, action) and last_entry[1]
  if not ended and lease == '' then lease = leased end
end
for at = EVENTS_AT, #ARGV, EVENT_ARGS do
  local category, action = ARGV[at], ARGV[at + 1]
  if ended and not (category == 'lifecycle' and action == 'started') then return {'ended', ended} end
  ended = is_terminal(category, action) and 'of the same batch'
end

-- The epoch tells this log from every other one under the key: the microsecond of its beginning.
-- Each entry has it. It is also the name of a consumer group, which goes with the log, for when
-- the last entry is another program's, or there is none.
if not epoch and ttl ~= -2 then
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', log)) do
    epoch = epoch or string.match(by_name(group).name, EPOCH_GROUP)
  end
end
local has_group = epoch
if not epoch then
  local now = redis.call('TIME')
  epoch = now[1] .. string.format('%06d', now[2])
end

-- entries-added survives trimming and deletion, so no sequence is ever given twice.
local id
if count == 1 and lease == '' and ARGV[EVENTS_AT + 3] == '' and ARGV[EVENTS_AT + 4] == '' then
  -- Most appends. Making no table, and passing the number as it is, is measurably faster.
  id = redis.call('XADD', log, 'MAXLEN', '~', ARGV[1], '*', 'timestamp', timestamp,
                  'sequence', added + 1, 'epoch', epoch, 'event_category', ARGV[EVENTS_AT],
                  'event_action', ARGV[EVENTS_AT + 1], 'data', ARGV[EVENTS_AT + 2])
else
  for n = 0, count - 1 do
    local at = EVENTS_AT + EVENT_ARGS * n
    local entry = {'timestamp', timestamp, 'sequence', added + 1 + n, 'epoch', epoch,
                   'event_category', ARGV[at], 'event_action', ARGV[at + 1], 'data', ARGV[at + 2]}
    if ARGV[at + 3] ~= '' then
      entry[#entry + 1] = 'source'
      entry[#entry + 1] = ARGV[at + 3]
    end
    if lease ~= '' then
      entry[#entry + 1] = 'lease_seconds'
      entry[#entry + 1] = lease
    end
    if ARGV[at + 4] ~= '' then
      entry[#entry + 1] = 'traceparent'
      entry[#entry + 1] = ARGV[at + 4]
    end
    local given = redis.call('XADD', log, 'MAXLEN', '~', ARGV[1], id and nth_id(id, n) or '*',
                             unpack(entry))
    id = id or given
  end
end

if not has_group then  -- an ACL may forbid it, but the entries are there now
  redis.pcall('XGROUP', 'CREATE', log, 'tailrace:' .. epoch, '0')
end

local function keep_for(ttl)
  redis.call('PEXPIRE', log, ttl)
  redis.pcall('PEXPIRE', keys, ttl)  -- while their slot moves, they may be elsewhere
  redis.pcall('PEXPIRE', order, ttl)
end

if key ~= '' then
  redis.call('HSET', keys, key, table.concat(
    {id, string.format('%.0f', added + 1), string.format('%.0f', count), timestamp}, ' '))
  redis.call('ZADD', order, string.match(id, '^%d+'), key)
  -- A key is kept as long as one of its events. Each append with a key removes a few keys whose
  -- events were trimmed.
  local retained = first_entry and string.match(first_entry[1], '^%d+')
  if retained then
    local old = redis.call('ZRANGEBYSCORE', order, '-inf', '(' .. retained,
                           'LIMIT', 0, MAX_KEYS_REMOVED)
    if #old > 0 then
      redis.call('HDEL', keys, unpack(old))
      redis.call('ZREM', order, unpack(old))
    end
  end
  if ttl > 0 then keep_for(ttl) end
end

if ended then
  keep_for(ARGV[2])
else
  -- The TTL is renewed only when an hour of it (a tenth, if it is short) is used up, so that most
  -- appends write no TTL. It is never shortened.
  local idle = tonumber(ARGV[3])
  if ttl < idle - math.min(MAX_TTL_USED_MS, idle / 10) then
    keep_for(ARGV[3])
  end
end
return {'added', id, added + 1, timestamp}
