-- Reads the state of a log, its epoch and some of its entries in one atomic step. Gives the log an
-- epoch if it has none: other programs wrote it.
-- KEYS[1]  the log
-- ARGV     1 the id from which on, 2 how many entries, 0 for none
-- Returns  {the reply to XINFO STREAM, epoch, entries}, or {} without a log. The epoch is 'none' if
--          the log never had one, and Redis takes no writes now. It is '' if nobody knows.

-- With these errors Redis refuses all writes for a while. If it is the ACL that refuses, the log may
-- have an epoch without a group.
local FOR_A_WHILE = {MISCONF = true, NOREPLICAS = true, OOM = true, READONLY = true}

local log, count = KEYS[1], tonumber(ARGV[2])
if redis.call('EXISTS', log) == 0 then return {} end

local info, epoch = redis.call('XINFO', 'STREAM', log), nil
for i = 1, #info, 2 do
  local last = info[i] == 'last-entry' and info[i + 1] and info[i + 1][2]
  if last and last[3] == 'sequence' and last[5] == 'epoch' then  -- as append.lua writes them
    epoch = string.match(last[6], '^%d+$')
  end
end

-- See append.lua.
if not epoch then
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', log)) do
    for i = 1, #group, 2 do
      if group[i] == 'name' then epoch = epoch or string.match(group[i + 1], '^tailrace:(%d+)$') end
    end
  end
end
if not epoch then
  local now = redis.call('TIME')
  epoch = now[1] .. string.format('%06d', now[2])
  local reply = redis.pcall('XGROUP', 'CREATE', log, 'tailrace:' .. epoch, '0')
  if reply.err then epoch = FOR_A_WHILE[string.match(reply.err, '^%-?(%u+)')] and 'none' or '' end
end

local entries = {}
if count > 0 then entries = redis.call('XRANGE', log, ARGV[1], '+', 'COUNT', count) end
return {info, epoch, entries}
