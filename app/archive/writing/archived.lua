-- Notes how far a log is archived, and gives up the claim. A log that was held expires as it would
-- have without that, but not at once.
-- KEYS     as those of append.lua, and the hash of what archivers note of the log
-- ARGV     1 the name of the archiver, 2 how far: the last id and the entries added, '' if it could
--          not be archived, 3 how many ms a held log is kept at least
-- Returns  1, or 0 without a log

local log, notes = KEYS[1], KEYS[4]
local expires_at = redis.call('PEXPIRETIME', log)
if expires_at == -2 then
  redis.call('DEL', notes)
  return 0
end
if redis.call('HGET', notes, 'claimed_by') == ARGV[1] then
  redis.call('HDEL', notes, 'claimed_by', 'claimed_until')
end
if ARGV[2] == '' then return 1 end
redis.call('HSET', notes, 'archived', ARGV[2])
redis.call('HDEL', notes, 'begun')

local held = redis.call('HMGET', notes, 'held_from', 'held_until')
redis.call('HDEL', notes, 'held_from', 'held_until')
if tonumber(held[2] or nil) == expires_at then
  local time = redis.call('TIME')
  local soon = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3])
  expires_at = math.min(expires_at, math.max(tonumber(held[1]), soon))
  for i = 1, 3 do redis.call('PEXPIREAT', KEYS[i], string.format('%.0f', expires_at)) end
end
if expires_at >= 0 then redis.call('PEXPIREAT', notes, string.format('%.0f', expires_at + 3600000))
else redis.call('PEXPIRE', notes, 604800000) end
return 1
