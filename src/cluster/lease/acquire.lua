-- Grants leases. All KEYS share one hash tag, so they are in one slot of a cluster.
-- KEYS: 1 zset of the user, 2 zset of all, 3 the last fence
-- ARGV: 1 ms that a lease lives, 2 limit of the user, 3 limit of all (-1: the set is not used), then ids
-- Answers for each id: granted (1 or 0), fence, which limit refused (1 user, 2 total, 0), ms until its first lease expires
local t = redis.call('TIME')
local us = t[1] * 1000000 + t[2]
local now = math.floor(us / 1000)
local ttl = tonumber(ARGV[1])
local limits = {tonumber(ARGV[2]), tonumber(ARGV[3])}
local count = {0, 0}
for i = 1, 2 do
  if limits[i] >= 0 then
    redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now)
    count[i] = redis.call('ZCARD', KEYS[i])
  end
end
local fence = tonumber(redis.call('GET', KEYS[3]) or '0')
local granted = false
local answer = {}
for a = 4, #ARGV do
  local id = ARGV[a]
  local why = 0
  local has = {false, false}
  for i = 1, 2 do
    if limits[i] >= 0 then
      has[i] = redis.call('ZSCORE', KEYS[i], id)
      if not has[i] and count[i] >= limits[i] and why == 0 then why = i end
    end
  end
  if why == 0 then
    for i = 1, 2 do
      if limits[i] >= 0 then
        redis.call('ZADD', KEYS[i], now + ttl, id)
        if not has[i] then count[i] = count[i] + 1 end
      end
    end
    -- A hybrid clock: it grows when the store lost its data, or failed over to a copy that lags.
    fence = math.max(us, fence + 1)
    granted = true
    answer[#answer + 1] = {1, fence, 0, 0}
  else
    local first = redis.call('ZRANGE', KEYS[why], 0, 0, 'WITHSCORES')
    local left = 0
    if first[2] then left = math.max(0, tonumber(first[2]) - now) end
    answer[#answer + 1] = {0, 0, why, left}
  end
end
if granted then
  redis.call('SET', KEYS[3], string.format('%.0f', fence))
  for i = 1, 2 do
    if limits[i] >= 0 and redis.call('PTTL', KEYS[i]) < ttl + 60000 then
      redis.call('PEXPIRE', KEYS[i], ttl + 60000)
    end
  end
end
return answer
