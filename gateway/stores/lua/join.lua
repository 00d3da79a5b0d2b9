-- Enter a tenant's books, or begin them. KEYS: epoch, opens, leases. ARGV: a fresh epoch, the epoch that this replica knew
-- ('' for none), seconds of quarantine, prefix, replica, 1 if its ledger
-- knows of calls. An epoch that is gone while replicas remember it means that the store lost
-- its data: nothing is reserved until every replica has had the time to bring its totals and holds back.
local now = NOW()
local epoch = redis.call('GET', KEYS[1])
if not epoch then
  epoch = ARGV[1]
  redis.call('SET', KEYS[1], epoch)
  if ARGV[2] ~= '' or ARGV[6] == '1' then
    redis.call('SET', KEYS[2], whole(math.ceil(now + tonumber(ARGV[3]))), 'EX', 3600)
  end
end
expire(ARGV[4], KEYS[3], now, 200)
return {epoch, whole(now * 1000), redis.call('HGET', ARGV[4] .. 'changes', ARGV[5]) or '0'}
