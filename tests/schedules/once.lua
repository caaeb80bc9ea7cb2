-- Runs commands once, all or none, and remembers the ids that they added.
-- KEYS[1]  hash: mark -> JSON of the ids
-- KEYS[2…] the keys of the commands
-- ARGV     1 mark, 2 JSON of the commands
-- Returns  the ids that XADD gave, those of the first run if there was one
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known then return cjson.decode(known) end
local ids = {}
for _, command in ipairs(cjson.decode(ARGV[2])) do
  local reply = redis.call(unpack(command))
  if command[1] == 'XADD' then ids[#ids + 1] = reply end
end
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(ids))
return ids
