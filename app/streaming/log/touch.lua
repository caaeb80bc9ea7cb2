-- Writes, and leaves everything as it was. WAIT waits only for what its own connection has written;
-- behind this, for all that anybody wrote before.
-- KEYS[1]  the hash of a run's idempotency keys (see append.lua); no such key is empty
-- Returns  1

redis.call('HSET', KEYS[1], '', '')
redis.call('HDEL', KEYS[1], '')
return 1
