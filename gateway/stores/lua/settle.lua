-- Close a hold and bring accounts to what this replica has spent on them in all. Totals only grow, so that doing it
-- twice, or late, or in another order, changes nothing.
-- KEYS: leases, hold, tomb, then account and totals for each line. ARGV: id, replica, 1 to bury the id, then for each line
-- the replica's total, the time of the charge (seconds), the seconds of a step, the steps, and the seconds to keep it.
local now = NOW()
local hold = read_hold(KEYS[2])
for i = 1, tonumber(hold.n or '0') do
  local key, amount, step = hold['a' .. i], tonumber(hold['h' .. i]), tonumber(hold['s' .. i])
  if not hold.expired then
    redis.call('HINCRBY', key, 'held', whole(-amount))
  elseif step == 0 then
    redis.call('HINCRBY', key, 'spent', whole(-amount))
  else
    local bucket = 'b:' .. whole(math.floor(tonumber(hold.expired) / step))
    if redis.call('HEXISTS', key, bucket) == 1 then
      redis.call('HINCRBY', key, bucket, whole(-amount))
      redis.call('HINCRBY', key, 'spent', whole(-amount))
    end
  end
end
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[1], ARGV[1])
-- The reservation may still be on its way, and must not be taken when it comes.
if ARGV[3] == '1' then redis.call('SET', KEYS[3], '1', 'EX', 900) end

local answer = {}
for i = 1, (#KEYS - 3) / 2 do
  local at = function(part) return tonumber(ARGV[3 + (i - 1) * 5 + part]) end
  local account, totals = KEYS[2 + i * 2], KEYS[3 + i * 2]
  local step, steps, keep = at(3), at(4), at(5)
  roll(account, step, steps, now)
  local before = tonumber(redis.call('HGET', account, 'spent') or '0')
  local more = at(1) - tonumber(redis.call('HGET', totals, ARGV[2]) or '0')
  if more > 0 then
    redis.call('HSET', totals, ARGV[2], whole(at(1)))
    if step == 0 or math.floor(at(2) / step) > math.floor(now / step) - steps then
      book(account, step, more, at(2))
    end
  end
  if keep > 0 then
    for _, key in ipairs({account, totals}) do
      if redis.call('TTL', key) < keep then redis.call('EXPIRE', key, keep) end
    end
  end
  answer[#answer + 1] = whole(before)
  answer[#answer + 1] = whole(before + math.max(more, 0))
end
return answer
