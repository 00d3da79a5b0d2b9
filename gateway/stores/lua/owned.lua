-- Holds of this replica, at most so many: those of an earlier process on the same ledger, for a fresh one has none yet.
-- Each as its id and its accounts. KEYS: the replica's open ids. ARGV: prefix, most.
local answer = {}
for _, id in ipairs(redis.call('SRANDMEMBER', KEYS[1], ARGV[2])) do
  local one = {id}
  local lines = tonumber(redis.call('HGET', ARGV[1] .. 'hold:' .. id, 'n') or '0')
  for i = 1, lines do one[#one + 1] = redis.call('HGET', ARGV[1] .. 'hold:' .. id, 'a' .. i) end
  answer[#answer + 1] = one
end
return answer
