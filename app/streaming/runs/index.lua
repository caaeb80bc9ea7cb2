-- Notes what is known of runs, or only asks what of it would be news.
-- KEYS     the index of the runs that are active, and of those that have ended. The score of a run
--          is lower the later its last known activity was.
-- ARGV     'note' or 'ask'
--          then for each run: its id, a score, and 'active', 'ended' or 'gone'. A run with a later
--          activity than the score says is not gone: it has begun again.
-- Returns  for each run whether that is news: 1, or 0 if it was known, or something later was

local active, ended = KEYS[1], KEYS[2]
local writes = ARGV[1] == 'note'
local news = {}

for at = 2, #ARGV, 3 do
  local run, score, state = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2]
  local here, other = active, ended
  if state == 'ended' then here, other = ended, active end
  local known = tonumber(redis.call('ZSCORE', here, run) or nil)
  local known_other = tonumber(redis.call('ZSCORE', other, run) or nil)
  local is_news = 0
  if state == 'gone' then
    local last = math.min(known or math.huge, known_other or math.huge)
    if last < math.huge and score <= last then
      is_news = 1
      if writes then
        redis.call('ZREM', here, run)
        redis.call('ZREM', other, run)
      end
    end
  elseif not known_other or score <= known_other then
    if not known then is_news = 1 end
    if writes then
      if not known or score < known then redis.call('ZADD', here, ARGV[at + 1], run) end
      redis.call('ZREM', other, run)
    end
  end
  news[#news + 1] = is_news
end

return news
