-- Who runs what, and until when it was said. By the server's time alone.
-- KEYS: the runs by the end of their leases
-- ARGV: announce ms run...; renew ms run...; overdue most; claim ms old new
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local verb = ARGV[1]
if verb == 'overdue' then
  return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
end
local ends = now + tonumber(ARGV[2])
if verb == 'claim' then
  local held = redis.call('ZSCORE', KEYS[1], ARGV[3])
  if not held or tonumber(held) > now then return 0 end
  redis.call('ZREM', KEYS[1], ARGV[3])
  redis.call('ZADD', KEYS[1], ends, ARGV[4])
  return 1
end
local known = {}
for i = 3, #ARGV do
  local held = verb == 'announce' or redis.call('ZSCORE', KEYS[1], ARGV[i])
  if held then redis.call('ZADD', KEYS[1], ends, ARGV[i]) end
  known[#known + 1] = held and 1 or 0
end
return known
