-- List open holds of this replica, each as its id and its account keys. A new process has none yet, so they belong to
-- an earlier process on the same ledger. KEYS: the replica's open ids. ARGV: prefix, maximum count.
local holds = {}
for _, id in ipairs(redis.call('SRANDMEMBER', KEYS[1], ARGV[2])) do
  local hold = {id}
  local lines = tonumber(redis.call('HGET', ARGV[1] .. 'hold:' .. id, 'n') or '0')
  for i = 1, lines do hold[#hold + 1] = redis.call('HGET', ARGV[1] .. 'hold:' .. id, 'a' .. i) end
  holds[#holds + 1] = hold
end
return holds
