-- Writes, and leaves everything as it was. WAIT waits only for what its own connection has written;
-- behind this, for all that anybody wrote before.
-- KEYS[1]  the hash of a run's idempotency keys (see append.lua); no such key is empty
-- ARGV     1 an idempotency key, 2 the id of the first event that was appended with it; or nothing
-- Returns  1, or 0 if the hash does not say so: then nothing was written

if ARGV[1] then
  local known = redis.call('HGET', KEYS[1], ARGV[1])
  if not known or string.match(known, '^%S+') ~= ARGV[2] then return 0 end
end
redis.call('HSET', KEYS[1], '', '')
redis.call('HDEL', KEYS[1], '')
return 1
