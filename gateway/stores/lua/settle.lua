-- Close holds and bring accounts to what this replica has spent on them in all. Totals only grow, so that doing it
-- twice, or late, or in another order, changes nothing.
-- KEYS: leases, then account and totals for each line. ARGV: replica, prefix, 1 to bury the ids, number of ids, ids...,
-- then for each line the replica's total, the time of the charge (seconds), the seconds of a step, the steps, and the
-- seconds to keep it.
local now = NOW()
local ids = tonumber(ARGV[4])
for i = 1, ids do
  local id = ARGV[4 + i]
  close(ARGV[2], KEYS[1], id)
  -- Also where the hold itself is long gone.
  redis.call('SREM', ARGV[2] .. 'open:' .. ARGV[1], id)
  -- The reservation may still be on its way, and must not be taken when it comes.
  if ARGV[3] == '1' then redis.call('SET', ARGV[2] .. 'tomb:' .. id, '1', 'EX', 900) end
end

local answer = {count(ARGV[2], ARGV[1])}
for i = 1, (#KEYS - 1) / 2 do
  local at = function(part) return tonumber(ARGV[4 + ids + (i - 1) * 5 + part]) end
  local account, totals = KEYS[i * 2], KEYS[i * 2 + 1]
  local step, steps, keep = at(3), at(4), at(5)
  roll(account, step, steps, now)
  local before = tonumber(redis.call('HGET', account, 'spent') or '0')
  local more = at(1) - tonumber(redis.call('HGET', totals, ARGV[1]) or '0')
  if more > 0 then
    redis.call('HSET', totals, ARGV[1], whole(at(1)))
    local booked_at = math.min(at(2), now)
    if step == 0 or math.floor(booked_at / step) > math.floor(now / step) - steps then
      book(account, step, more, booked_at)
    end
  end
  if keep > 0 then
    redis.call('EXPIRE', account, keep)
    redis.call('EXPIRE', totals, keep)
  end
  answer[#answer + 1] = whole(before)
  answer[#answer + 1] = whole(before + math.max(more, 0))
end
return answer
