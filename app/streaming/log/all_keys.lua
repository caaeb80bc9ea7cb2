-- Runs one command on every key of a run: all or none. Fails with WRONGTYPE, before it changes
-- anything, if a key holds what Tailrace has not put there.
-- KEYS     the log, and the two keys for its idempotency keys (see append.lua)
-- ARGV     the name of the command, and its arguments after the key
-- Returns  the reply for the log

redis.call('XLEN', KEYS[1])
redis.call('HLEN', KEYS[2])
redis.call('ZCARD', KEYS[3])
local reply
for i = #KEYS, 1, -1 do reply = redis.call(ARGV[1], KEYS[i], unpack(ARGV, 2)) end
return reply
