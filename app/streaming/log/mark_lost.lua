-- Ends a run whose producer is lost: appends lifecycle.lost, unless an event has come meanwhile.
-- KEYS     the log, and the two keys for its idempotency keys (see append.lua)
-- ARGV     1 id of the last entry as the caller saw it, 2 timestamp, 3 TTL of an ended run (ms),
--          4 '1' if the caller has watched the run for its whole lease; else the clock of Redis
--          decides
-- Returns  1 if the event was appended, 0 if the run goes on or has ended already, or its log takes
--          no more events

-- A caller may name the log alone: then the other two have their names from it, as in redis_keys.py.
local log = KEYS[1]
local tagged = string.find(log, '{', 1, true) and log or '{' .. log .. '}'
local keys, order = KEYS[2] or tagged .. ':keys', KEYS[3] or tagged .. ':key-order'
local MAX_EXACT = 9007199254740991  -- 2^53 - 1: Lua's numbers are doubles
local MAX_ID = '18446744073709551615-18446744073709551615'  -- Redis gives no id after it
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
if not last or last[1] ~= ARGV[1] then return 0 end

local fields = {}
for i = 1, #last[2], 2 do fields[last[2][i]] = last[2][i + 1] end
local lease = tonumber(fields.lease_seconds)
if not lease or fields.event_category == 'lifecycle' and
   (fields.event_action == 'completed' or fields.event_action == 'failed' or
    fields.event_action == 'cancelled' or fields.event_action == 'lost') then
  return 0
end

local now = redis.call('TIME')
local ms = tonumber(string.match(last[1], '^%d+'))
if ARGV[4] ~= '1' and now[1] * 1000 + now[2] / 1000 < ms + lease * 1000 then return 0 end

local info, added, last_id = redis.call('XINFO', 'STREAM', log), nil, nil
for i = 1, #info, 2 do
  if info[i] == 'entries-added' then added = info[i + 1] end
  if info[i] == 'last-generated-id' then last_id = info[i + 1] end
end
if added < 0 or added >= MAX_EXACT or last_id == MAX_ID then return 0 end
-- Another program may have written the lease, and then no epoch (see append.lua).
local entry = last[2]
local epoch = entry[3] == 'sequence' and entry[5] == 'epoch' and entry[6] or ''
redis.call('XADD', log, '*', 'timestamp', ARGV[2], 'sequence', string.format('%.0f', added + 1),
           'epoch', epoch, 'event_category', 'lifecycle', 'event_action', 'lost',
           'data', string.format('{"lease_seconds":%.0f}', lease))
redis.call('PEXPIRE', log, ARGV[3])
redis.pcall('PEXPIRE', keys, ARGV[3])  -- while their slot moves, they may be elsewhere
redis.pcall('PEXPIRE', order, ARGV[3])
return 1
