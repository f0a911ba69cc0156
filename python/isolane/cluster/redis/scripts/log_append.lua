-- Appends to a run's log. One worker writes it: who does not is refused.
-- KEYS: the user's runs, the log, its snapshot
-- ARGV: run, epoch, worker, whole, replaces, owner, seconds of a live log, seconds of an ended one, outcome,
--       the number that it follows, the number up to which it goes, snapshot to ('' for none), snapshot,
--       then numbers and entries
local run, epoch, worker, whole = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local raw, former = redis.call('HGET', KEYS[1], run), ''
local record = raw and cjson.decode(raw)
if record and record.e ~= epoch then
  local adopted = ARGV[5] ~= '' and record.e == ARGV[5] and record.w == worker
  local over = whole and record.o ~= ''
  -- What had its time never comes back, whatever its writer thinks.
  if not (adopted or over) or string.find(record.p, epoch, 1, true) then return {'refused'} end
  former = string.sub(record.e .. ' ' .. record.p, 1, 256)
  record = nil
elseif record and record.w ~= worker then
  return {'refused'}
end
if not record and not whole then return {'rewind'} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if not record and redis.call('HLEN', KEYS[1]) >= 256 then
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    local expires = cjson.decode(all[i + 1]).x
    if expires > 0 and expires <= now then redis.call('HDEL', KEYS[1], all[i]) end
  end
end
record = record or {h = 0, n = 0, f = 0, o = '', x = 0, r = 0, p = former}
local stored = 0
if whole then
  redis.call('DEL', KEYS[2], KEYS[3])
  -- Its end is said again as well.
  record.h, record.n, record.f, record.o = 0, 0, 0, ''
else
  local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
  if last[1] then stored = tonumber(string.match(last[1][1], '^(%d+)-')) end
  -- It came back from an older state, or has thrown something out.
  local older = record.h < tonumber(ARGV[10])
  local torn = stored < record.n and record.f < record.n
  local headless = record.f > 0 and redis.call('EXISTS', KEYS[3]) == 0
  if older or torn or headless then return {'rewind'} end
  stored = math.max(stored, record.n)
end
for i = 14, #ARGV, 2 do
  local number = tonumber(ARGV[i])
  -- What is there already was appended before an answer was lost.
  if number > stored then
    redis.call('XADD', KEYS[2], ARGV[i] .. '-0', 'e', ARGV[i + 1])
    stored = number
  end
end
record.n = math.max(record.n, stored)
local upto = tonumber(ARGV[12])
if upto and upto > record.f then
  redis.call('SET', KEYS[3], ARGV[12] .. ':' .. ARGV[13])
  redis.call('XTRIM', KEYS[2], 'MINID', '=', ARGV[12] .. '-1')
  record.f = upto
  record.r = 0
end
record.h = math.max(record.h, tonumber(ARGV[11]))
local ttl = tonumber(ARGV[7])
if ARGV[9] ~= '' and record.o == '' then
  record.o = ARGV[9]
  if record.x == 0 then record.x = now + tonumber(ARGV[8]) * 1000 end
  redis.call('XADD', KEYS[2], string.format('%d-1', record.h), 'o', record.o)
end
if record.o ~= '' then ttl = math.max(1, math.ceil((record.x - now) / 1000)) end
record.e, record.w, record.u = epoch, worker, ARGV[6]
-- Not with each append: a log that lives is given its time once more when half of it is over.
local refresh = whole or record.o ~= '' or now >= record.r
if refresh then record.r = now + ttl * 500 end
redis.call('HSET', KEYS[1], run, cjson.encode(record))
if refresh then
  redis.call('EXPIRE', KEYS[1], ARGV[7])
  redis.call('EXPIRE', KEYS[2], ttl)
  redis.call('EXPIRE', KEYS[3], ttl)
end
return {'stored'}
