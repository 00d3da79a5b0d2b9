-- The holds of this replica: those of an earlier process on the same ledger, for a fresh one has none yet. Each as its id
-- and its accounts. KEYS: leases, expired. ARGV: replica, prefix.
local answer = {}
for _, set in ipairs(KEYS) do
  for _, id in ipairs(redis.call('ZRANGE', set, 0, 20000)) do
    local hold = redis.call('HMGET', ARGV[2] .. 'hold:' .. id, 'replica', 'n')
    if hold[1] == ARGV[1] then
      local one = {id}
      for i = 1, tonumber(hold[2]) do one[#one + 1] = redis.call('HGET', ARGV[2] .. 'hold:' .. id, 'a' .. i) end
      answer[#answer + 1] = one
    end
  end
end
return answer
