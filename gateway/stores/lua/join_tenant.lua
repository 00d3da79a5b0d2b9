-- Join a tenant, or initialize it. A missing epoch that replicas remember means that the store lost its data: nothing
-- is reserved until every replica has had time to restore its totals and holds.
-- KEYS: epoch, opens, leases. ARGV: a fresh epoch, the epoch that this replica knows ('' for none), seconds of
-- quarantine, prefix, replica, 1 if its ledger has calls.
local now = NOW()
local epoch = redis.call('GET', KEYS[1])
if not epoch then
  epoch = ARGV[1]
  redis.call('SET', KEYS[1], epoch)
  if ARGV[2] ~= '' or ARGV[6] == '1' then
    redis.call('SET', KEYS[2], whole(math.ceil(now + tonumber(ARGV[3]))), 'EX', 3600)
  end
end
expire_holds(ARGV[4], KEYS[3], now, 200)
return {epoch, whole(now * 1000), redis.call('HGET', ARGV[4] .. 'changes', ARGV[5]) or '0'}
