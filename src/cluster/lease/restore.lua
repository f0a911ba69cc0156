-- Puts leases back that the store lost, without a look at the limits: what they are of runs. KEYS and ARGV as for acquire.
-- Answers the fence of each id.
local t = redis.call('TIME')
local us = t[1] * 1000000 + t[2]
local now = math.floor(us / 1000)
local ttl = tonumber(ARGV[1])
local fence = tonumber(redis.call('GET', KEYS[3]) or '0')
local answer = {}
for a = 4, #ARGV do
  for i = 1, 2 do
    if tonumber(ARGV[i + 1]) >= 0 then redis.call('ZADD', KEYS[i], now + ttl, ARGV[a]) end
  end
  fence = math.max(us, fence + 1)
  answer[#answer + 1] = fence
end
redis.call('SET', KEYS[3], string.format('%.0f', fence))
for i = 1, 2 do
  if tonumber(ARGV[i + 1]) >= 0 and redis.call('PTTL', KEYS[i]) < ttl + 60000 then
    redis.call('PEXPIRE', KEYS[i], ttl + 60000)
  end
end
return answer
