-- Claims a log for one archiver, or renews its claim. It is a courtesy: should two archivers work
-- on a log all the same, the storage lets one of them write the manifest.
-- KEYS     the log, and the hash of what archivers note of it: `claimed_by`, `claimed_until` in Unix
--          ms, and `begun` from the first claim on until the log is archived
-- ARGV     the name of the archiver, and for how many ms it claims the log
-- Returns  0 without a log, or if another archiver has claimed it
--          1 if it is the first claim, 2 if there was one and the log is not archived yet

local log, notes = KEYS[1], KEYS[2]
local ttl = redis.call('PTTL', log)
if ttl == -2 then return 0 end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local before = redis.call('HMGET', notes, 'claimed_by', 'claimed_until', 'begun')
if before[1] and before[1] ~= ARGV[1] and now < tonumber(before[2]) then return 0 end

redis.call('HSET', notes, 'begun', 1, 'claimed_by', ARGV[1],
           'claimed_until', string.format('%.0f', now + ARGV[2]))
if ttl >= 0 then redis.call('PEXPIRE', notes, ttl + 3600000)
else redis.call('PEXPIRE', notes, 604800000) end
return before[3] and 2 or 1
