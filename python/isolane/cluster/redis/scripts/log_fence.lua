-- Gives a run that goes on to another worker: the former one can append no more.
-- KEYS: the user's runs
-- ARGV: run, epoch, the worker that takes it
local raw = redis.call('HGET', KEYS[1], ARGV[1])
local record = raw and cjson.decode(raw)
if not record or record.e ~= ARGV[2] or record.o ~= '' then return 0 end
record.w = ARGV[3]
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(record))
return 1
