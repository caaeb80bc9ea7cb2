-- Appends ARGV[1] events to the log KEYS[1], of which the newest 10 are kept, all at once.
-- Their sequences go on from ARGV[2].
for n = 1, tonumber(ARGV[1]) do
    redis.call('XADD', KEYS[1], 'MAXLEN', '=', 10, '*', 'sequence', n + ARGV[2],
               'event_category', 'llm', 'event_action', 'stream', 'data', n)
end
