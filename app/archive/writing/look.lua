-- Looks at a log for the archiver: whether it is archived, and when it expires.
-- KEYS     the log, and what archivers note of it: a hash, see claim.lua, hold.lua and archived.lua
-- Returns  {} without a log
--          {last id, entries added, is it ended, Unix ms at which it expires or -1,
--           how far it is archived or '', Unix ms now}

local log, notes = KEYS[1], KEYS[2]
local expires_at = redis.call('PEXPIRETIME', log)
if expires_at == -2 then return {} end

local last_id, added, last, ended = '', 0, nil, 0
local info = redis.call('XINFO', 'STREAM', log)
for i = 1, #info, 2 do
  local name = info[i]
  if name == 'last-generated-id' then last_id = info[i + 1]
  elseif name == 'entries-added' then added = info[i + 1]
  elseif name == 'last-entry' then last = info[i + 1] and info[i + 1][2] end
end
if last then
  local fields = {}
  for i = 1, #last, 2 do fields[last[i]] = last[i + 1] end
  local action = fields.event_action
  if fields.event_category == 'lifecycle' and (action == 'completed' or action == 'failed'
                                               or action == 'cancelled' or action == 'lost') then
    ended = 1
  end
end

local now = redis.call('TIME')
return {last_id, added, ended, expires_at, redis.call('HGET', notes, 'archived') or '',
        now[1] * 1000 + math.floor(now[2] / 1000)}
