-- Reads the place of one entry, and not its data, which may be large.
-- KEYS[1]  the log
-- ARGV[1]  the id of the entry
-- Returns  {id, the entry's first three fields and their values}, or {} if it is not there

local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not entry then return {} end
return {entry[1], {unpack(entry[2], 1, math.min(6, #entry[2]))}}
