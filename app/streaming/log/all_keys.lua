-- Runs one command on every key of a run: all or none. Fails with WRONGTYPE, before it changes
-- anything, if a key holds what Tailrace has not put there.
-- KEYS     the log, and the two keys for its idempotency keys (see append.lua)
-- ARGV     the name of the command, and its arguments after the key
-- Returns  the reply for the log

-- A caller may name the log alone: then the other two have their names from it, as in redis_keys.py.
local log = KEYS[1]
local tagged = string.find(log, '{', 1, true) and log or '{' .. log .. '}'
local keys, order = KEYS[2] or tagged .. ':keys', KEYS[3] or tagged .. ':key-order'

redis.call('XLEN', log)
redis.call('HLEN', keys)
redis.call('ZCARD', order)
redis.call(ARGV[1], order, unpack(ARGV, 2))
redis.call(ARGV[1], keys, unpack(ARGV, 2))
return redis.call(ARGV[1], log, unpack(ARGV, 2))
