-- The runs of a user that go on or ended within the retention; the others are forgotten.
-- KEYS: the user's runs
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all, kept = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  local expires = cjson.decode(all[i + 1]).x
  if expires > 0 and expires <= now then
    redis.call('HDEL', KEYS[1], all[i])
  else
    kept[#kept + 1] = all[i]
    kept[#kept + 1] = all[i + 1]
  end
end
return kept
