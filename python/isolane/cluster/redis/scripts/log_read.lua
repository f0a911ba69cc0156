-- Reads what follows a position in a log, from its snapshot if the position is before that.
-- KEYS: the log, its snapshot
-- ARGV: position, most entries
local position = tonumber(ARGV[1])
local upto = tonumber(string.match(redis.call('GETRANGE', KEYS[2], 0, 20), '^(%d+):') or '0')
local snapshot = false
if upto > position then
  snapshot = redis.call('GET', KEYS[2])
  position = upto
end
-- The mark of an end has the number of the last entry, and comes after it.
return {snapshot, redis.call('XRANGE', KEYS[1], string.format('%d-1', position), '+', 'COUNT', ARGV[2])}
