-- Grant more on one account, once per id. KEYS: account, grant. ARGV: amount, until (seconds, '' for the rest of the
-- window), seconds to remember the id, seconds to keep the account (0: forever).
if not redis.call('SET', KEYS[2], '1', 'NX', 'EX', ARGV[3]) then return 0 end
if ARGV[2] == '' then
  redis.call('HINCRBY', KEYS[1], 'extra', ARGV[1])
else
  redis.call('HSET', KEYS[1], 'grace', ARGV[1], 'grace_until', ARGV[2])
end
if ARGV[4] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[4]) end
return 1
