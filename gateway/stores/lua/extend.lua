-- Hold more for a call that goes on. KEYS: hold, account... ARGV: number of the extension, then for each account the
-- amount, the ceiling, the seconds of a step and the steps (0 for calendar accounts).
local now = NOW()
local hold = read_hold(KEYS[1])
if not hold.n or hold.expired then return 0 end
if tonumber(hold.extensions or '0') >= tonumber(ARGV[1]) then return 1 end
local at = function(i, part) return tonumber(ARGV[1 + (i - 1) * 4 + part]) end
for i = 1, #KEYS - 1 do
  roll(KEYS[1 + i], at(i, 3), at(i, 4), now)
  local spent, held, granted = standing(KEYS[1 + i], now)
  if at(i, 1) > 0 and spent + held + at(i, 1) > at(i, 2) + granted then return 0 end
end
for i = 1, #KEYS - 1 do
  redis.call('HINCRBY', KEYS[1 + i], 'held', whole(at(i, 1)))
  redis.call('HINCRBY', KEYS[1], 'h' .. i, whole(at(i, 1)))
end
redis.call('HSET', KEYS[1], 'extensions', ARGV[1])
return 1
