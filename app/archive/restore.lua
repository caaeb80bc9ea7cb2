-- Gives a restored log its name, if the log under that name is still as it was when it was read.
-- KEYS     the log; the restored log, under a name of its own; the two keys for idempotency keys
-- ARGV     1 TTL in ms
--          2 the last id, 3 the entries added, 4 the length of the log as it was; '' for 2 if there
--          was none
-- Returns  1, or 0 if the log has changed

local log, restored = KEYS[1], KEYS[2]
if ARGV[2] == '' then
  if redis.call('EXISTS', log) == 1 then return 0 end
else
  if redis.call('EXISTS', log) == 0 then return 0 end
  local info, found = redis.call('XINFO', 'STREAM', log), {}
  for i = 1, #info, 2 do found[info[i]] = info[i + 1] end
  if found['last-generated-id'] ~= ARGV[2] or found.length ~= tonumber(ARGV[4])
     or found['entries-added'] ~= tonumber(ARGV[3]) then
    return 0
  end
end
if redis.call('EXISTS', restored) == 0 then return 0 end

local ttl = tonumber(ARGV[1])
local before = redis.call('PTTL', log)
redis.call('RENAME', restored, log)
if before == -1 then redis.call('PERSIST', log) return 1 end
redis.call('PEXPIRE', log, math.max(ttl, before))
redis.call('PEXPIRE', KEYS[3], math.max(ttl, before))
redis.call('PEXPIRE', KEYS[4], math.max(ttl, before))
return 1
