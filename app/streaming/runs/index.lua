-- Notes what is known of runs, each in one step.
-- KEYS     the index of the runs that are active, and of those that have ended. The score of a run
--          is lower the later its last known activity was.
-- ARGV     for each run: its id, a score, and 'active', 'ended' or 'gone'
-- Returns  for each run whether that is news: 1, or 0 if it was known, or something later was

local active, ended = KEYS[1], KEYS[2]
local news = {}

for at = 1, #ARGV, 3 do
  local run, score, state = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local here, other = active, ended
  if state == 'ended' then here, other = ended, active end
  local known, known_other = redis.call('ZSCORE', here, run), redis.call('ZSCORE', other, run)
  local is_news = 0
  if state == 'gone' then
    if known or known_other then is_news = 1 end
    redis.call('ZREM', here, run)
    redis.call('ZREM', other, run)
  elseif not known_other or tonumber(score) <= tonumber(known_other) then
    if not known then is_news = 1 end
    if not known or tonumber(score) < tonumber(known) then redis.call('ZADD', here, score, run) end
    redis.call('ZREM', other, run)
  end
  news[#news + 1] = is_news
end

return news
