-- Extend the hold of a running call. KEYS: hold, account... ARGV: number of the extension, then for each account the
-- amount, the ceiling, the seconds of a step and the number of steps (0 for calendar accounts).
local now = NOW()
local hold = read_hold(KEYS[1])
if not hold.n or hold.expired then return 0 end
if tonumber(hold.extensions or '0') >= tonumber(ARGV[1]) then return 1 end
local argument = function(i, part) return tonumber(ARGV[1 + (i - 1) * 4 + part]) end
for i = 1, #KEYS - 1 do
  local amount, ceiling = argument(i, 1), argument(i, 2)
  roll_window(KEYS[1 + i], argument(i, 3), argument(i, 4), now)
  local spent, held, granted = balance(KEYS[1 + i], now)
  if amount > 0 and spent + held + amount > ceiling + granted then return 0 end
end
for i = 1, #KEYS - 1 do
  redis.call('HINCRBY', KEYS[1 + i], 'held', whole(argument(i, 1)))
  redis.call('HINCRBY', KEYS[1], 'h' .. i, whole(argument(i, 1)))
end
redis.call('HSET', KEYS[1], 'extensions', ARGV[1])
return 1
