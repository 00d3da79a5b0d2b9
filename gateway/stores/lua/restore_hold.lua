-- Restore a hold that the store lost. The call is already running, so no limit is checked.
-- KEYS: leases, hold, the replica's open ids, account... ARGV: id, lease in seconds, replica, then for each account the
-- amount and the seconds of a step.
local now = NOW()
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('HSET', KEYS[2], 'n', #KEYS - 3, 'replica', ARGV[3])
for i = 1, #KEYS - 3 do
  local amount, step_seconds = ARGV[3 + i * 2 - 1], ARGV[3 + i * 2]
  redis.call('HINCRBY', KEYS[3 + i], 'held', amount)
  redis.call('HSET', KEYS[2], 'a' .. i, KEYS[3 + i], 'h' .. i, amount, 's' .. i, step_seconds)
end
redis.call('ZADD', KEYS[1], whole(math.floor(now + tonumber(ARGV[2]))), ARGV[1])
redis.call('SADD', KEYS[3], ARGV[1])
return 1
