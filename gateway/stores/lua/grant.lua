-- Allow more on one account, once for each id. KEYS: account, grant. ARGV: amount, until (seconds, '' for the rest of the
-- window), seconds for which the id is remembered, seconds to keep the account (0 for ever).
if not redis.call('SET', KEYS[2], '1', 'NX', 'EX', ARGV[3]) then return 0 end
if ARGV[2] == '' then
  redis.call('HINCRBY', KEYS[1], 'extra', ARGV[1])
else
  redis.call('HSET', KEYS[1], 'grace', ARGV[1], 'grace_until', ARGV[2])
end
if ARGV[4] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[4]) end
return 1
