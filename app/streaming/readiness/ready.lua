-- Tries every command that the other scripts and the reads of one log use, on keys of its own, and
-- leaves nothing. A script that is refused in the middle would leave half of its work.
-- KEYS     as those of append.lua
-- Returns  {} if all are allowed
--          {command, error} for the first one that is refused
--          {'too old', ''} on a server older than Redis 7.0

local log, keys, order = KEYS[1], KEYS[2], KEYS[3]
local refused = {}

local function try(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if #refused == 0 then refused = {(select(1, ...)), reply.err} end
end

try('XADD', log, 'MAXLEN', '~', 9, '*', 'data', '1')  -- first: a full server allows the rest
redis.pcall('DEL', log, keys, order)  -- what was left where DEL is refused
try('XADD', log, 'MAXLEN', '~', 9, '*', 'data', '1')
try('HSET', keys, 'a', '1')
try('ZADD', order, '1', 'a')
for _, key in ipairs(KEYS) do try('PEXPIRE', key, 10000) end
try('TIME')
try('EXISTS', log)
try('PTTL', log)
try('TTL', log)
try('XGROUP', 'CREATE', log, 'tailrace:0', '0')
try('XINFO', 'GROUPS', log)
try('XLEN', log)
try('XRANGE', log, '-', '+')
try('XREVRANGE', log, '+', '-')
try('HGET', keys, 'a')
try('HLEN', keys)
try('HDEL', keys, 'a')
try('ZSCORE', order, 'a')
try('ZCARD', order)
try('ZRANGEBYSCORE', order, '-inf', '(1', 'LIMIT', 0, 1)
try('ZREM', order, 'a')
local info = try('XINFO', 'STREAM', log)
redis.pcall('DEL', log, keys, order)  -- appends and reads do not need it

if #refused > 0 then return refused end
for i = 1, #info, 2 do
  if info[i] == 'entries-added' then return {} end
end
return {'too old', ''}
