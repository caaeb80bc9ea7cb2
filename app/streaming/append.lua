-- Appends one event to a run's log, atomically: refuse, number, add, keep the TTL right.
-- KEYS[1]  the log
-- ARGV     1 maxlen, 2 TTL of an ended run (ms), 3 idle TTL (ms), 4 timestamp,
--          5 category, 6 action, 7 data (JSON), 8 source (JSON, or '' for none)
-- Returns  {'added', id, sequence} or {'ended', id of the last entry}

local log = KEYS[1]
local terminal = {completed = true, failed = true, cancelled = true, lost = true}

local function is_terminal(category, action)
  return category == 'lifecycle' and terminal[action] == true
end

local added, last_entry = 0, false
if redis.call('EXISTS', log) == 1 then
  local info = redis.call('XINFO', 'STREAM', log)
  added = nil
  for i = 1, #info, 2 do
    if info[i] == 'entries-added' then added = info[i + 1] end
    if info[i] == 'last-entry' then last_entry = info[i + 1] end
  end
  if not added then return {'too old'} end
end

if last_entry and not (ARGV[5] == 'lifecycle' and ARGV[6] == 'started') then
  local category, action
  for i = 1, #last_entry[2], 2 do
    if last_entry[2][i] == 'event_category' then category = last_entry[2][i + 1] end
    if last_entry[2][i] == 'event_action' then action = last_entry[2][i + 1] end
  end
  if is_terminal(category, action) then return {'ended', last_entry[1]} end
end

-- entries-added outlives trimming and deletion, so no sequence is ever given twice.
local sequence = added + 1
local entry = {'timestamp', ARGV[4], 'sequence', string.format('%.0f', sequence),
               'event_category', ARGV[5], 'event_action', ARGV[6], 'data', ARGV[7]}
if ARGV[8] ~= '' then
  entry[#entry + 1] = 'source'
  entry[#entry + 1] = ARGV[8]
end
local id = redis.call('XADD', log, 'MAXLEN', '~', ARGV[1], '*', unpack(entry))

if is_terminal(ARGV[5], ARGV[6]) then
  redis.call('PEXPIRE', log, ARGV[2])
else
  -- Renewed only once an hour of it (a tenth, of a short one) is used up, so that most
  -- appends write no TTL; and never shortened.
  local idle = tonumber(ARGV[3])
  if redis.call('PTTL', log) < idle - math.min(3600000, idle / 10) then
    redis.call('PEXPIRE', log, ARGV[3])
  end
end
return {'added', id, sequence}
