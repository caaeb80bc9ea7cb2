-- Keeps a log that is not archived from expiring, within a limit.
-- KEYS     as those of append.lua, and the hash of what archivers note of the log: `held_from`, when
--          it would have expired, and `held_until`, when it does now, in Unix ms
-- ARGV     1 the limit: for how many ms after `held_from` a log is held, 2 how many ms it must have
--          left at least, 3 how many ms from now it is held until
-- Returns  {Unix ms at which it expires, Unix ms of the limit}, {-1, -1} if it never expires, or {}
--          without a log

local log, notes = KEYS[1], KEYS[4]
local expires_at = redis.call('PEXPIRETIME', log)
if expires_at == -2 then return {} end
if expires_at == -1 then return {-1, -1} end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HMGET', notes, 'held_from', 'held_until')
local from = expires_at
if tonumber(held[2] or nil) == expires_at then from = tonumber(held[1]) end
local limit = from + tonumber(ARGV[1])
local until_ = math.min(now + tonumber(ARGV[3]), limit)
if until_ <= expires_at or expires_at > now + tonumber(ARGV[2]) then return {expires_at, limit} end

for i = 1, 3 do redis.call('PEXPIREAT', KEYS[i], string.format('%.0f', until_)) end
redis.call('HSET', notes, 'held_from', string.format('%.0f', from),
           'held_until', string.format('%.0f', until_))
redis.call('PEXPIREAT', notes, string.format('%.0f', until_ + 3600000))
return {until_, limit}
