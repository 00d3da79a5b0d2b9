-- Release holds and raise accounts to this replica's total spend. Totals only grow, so repeated, late or reordered
-- delivery changes nothing. A negative total is of what corrections took back: it grows away from zero, and lowers.
-- KEYS: leases, then account and totals for each line. ARGV: replica, prefix, 1 to tombstone the ids, number of ids,
-- ids..., then for each line the replica's total, the time of the charge (seconds), the seconds of a step, the number
-- of steps, and the seconds to keep it.
local now = NOW()
local ids = tonumber(ARGV[4])
for i = 1, ids do
  local id = ARGV[4 + i]
  release_hold(ARGV[2], KEYS[1], id)
  -- Also where the hold itself is gone already.
  redis.call('SREM', ARGV[2] .. 'open:' .. ARGV[1], id)
  -- The reservation may still be in flight, and must be rejected when it arrives.
  if ARGV[3] == '1' then redis.call('SET', ARGV[2] .. 'tomb:' .. id, '1', 'EX', 900) end
end

local answer = {count_change(ARGV[2], ARGV[1])}
for i = 1, (#KEYS - 1) / 2 do
  local argument = function(part) return tonumber(ARGV[4 + ids + (i - 1) * 5 + part]) end
  local account, totals = KEYS[i * 2], KEYS[i * 2 + 1]
  local total, step_seconds, steps, keep_seconds = argument(1), argument(3), argument(4), argument(5)
  roll_window(account, step_seconds, steps, now)
  local before = tonumber(redis.call('HGET', account, 'spent') or '0')
  local field = total < 0 and ARGV[1] .. ':taken back' or ARGV[1]
  local more = total - tonumber(redis.call('HGET', totals, field) or '0')
  local is_new = (total < 0 and more < 0) or (total >= 0 and more > 0)
  if not is_new then more = 0 end
  if is_new then
    redis.call('HSET', totals, field, whole(total))
    local charged_at = math.min(argument(2), now)
    if step_seconds == 0 or math.floor(charged_at / step_seconds) > math.floor(now / step_seconds) - steps then
      charge(account, step_seconds, more, charged_at)
    end
  end
  if keep_seconds > 0 then
    redis.call('EXPIRE', account, keep_seconds)
    redis.call('EXPIRE', totals, keep_seconds)
  end
  answer[#answer + 1] = whole(before)
  answer[#answer + 1] = whole(before + more)
end
return answer
