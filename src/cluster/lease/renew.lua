-- Lets leases live on. KEYS and ARGV as for acquire.
-- Answers for each id 1, or 0 when the store does not have it any more.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local ttl = tonumber(ARGV[1])
local limits = {tonumber(ARGV[2]), tonumber(ARGV[3])}
local answer = {}
for a = 4, #ARGV do
  local id = ARGV[a]
  local lives = 1
  for i = 1, 2 do
    if limits[i] >= 0 then
      local score = redis.call('ZSCORE', KEYS[i], id)
      if not score or tonumber(score) <= now then lives = 0 end
    end
  end
  if lives == 1 then
    for i = 1, 2 do
      if limits[i] >= 0 then redis.call('ZADD', KEYS[i], 'XX', now + ttl, id) end
    end
  end
  answer[#answer + 1] = lives
end
for i = 1, 2 do
  if limits[i] >= 0 then
    local left = redis.call('PTTL', KEYS[i])
    if left >= 0 and left < ttl + 60000 then redis.call('PEXPIRE', KEYS[i], ttl + 60000) end
  end
end
return answer
