-- Gives leases back. KEYS and ARGV as for acquire. An id that is not there is no mistake: a release may come twice.
for a = 4, #ARGV do
  for i = 1, 2 do
    if tonumber(ARGV[i + 1]) >= 0 then redis.call('ZREM', KEYS[i], ARGV[a]) end
  end
end
return 1
