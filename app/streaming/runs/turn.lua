-- Takes the turn of the census, which all gateways share.
-- KEYS     a sorted set with one member: its score is the time of the last turn, in seconds
-- ARGV     how many seconds lie between two turns, at least
-- Returns  1 if the turn is the caller's

local now = tonumber(redis.call('TIME')[1])
local last = redis.call('ZSCORE', KEYS[1], 'last')
if last and now - tonumber(last) < tonumber(ARGV[1]) and now >= tonumber(last) then return 0 end
redis.call('ZADD', KEYS[1], now, 'last')
return 1
