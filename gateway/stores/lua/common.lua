-- What every transition begins with. Amounts are whole numbers below 2^53, exact as doubles; what is written back goes
-- through HINCRBY, which counts in 64-bit integers. All keys of a tenant share one hash tag, so one node has them all.
--
-- An account is a hash: spent, held, extra, grace, grace_until; rolling ones have b:<step> for each step, and `first`.
-- A hold is a hash: n lines as a<i> (account key), h<i> (amount), s<i> (seconds of a step, 0 for calendar accounts),
-- `extensions`, and `expired` (the time at which it was charged in full).

-- Adding 0 takes the sign from a negative zero, which is no number to HINCRBY.
local function whole(number) return string.format('%.0f', number + 0) end

local function roll(key, step_seconds, steps, now)
  if step_seconds == 0 then return end
  local first = tonumber(redis.call('HGET', key, 'first'))
  local oldest = math.floor(now / step_seconds) - steps + 1
  if not first or first >= oldest then return end
  local over = {}
  if oldest - first <= steps then
    for step = first, oldest - 1 do over[#over + 1] = 'b:' .. whole(step) end
  else
    -- Nobody looked for longer than the window: what there is tells which steps are over.
    for _, field in ipairs(redis.call('HKEYS', key)) do
      local step = tonumber(string.match(field, '^b:(%d+)$'))
      if step and step < oldest then over[#over + 1] = field end
    end
  end
  for _, field in ipairs(over) do
    local amount = redis.call('HGET', key, field)
    if amount then
      redis.call('HINCRBY', key, 'spent', whole(-tonumber(amount)))
      redis.call('HDEL', key, field)
    end
  end
  redis.call('HSET', key, 'first', whole(oldest))
end

local function book(key, step_seconds, amount, now)
  if amount == 0 then return end
  redis.call('HINCRBY', key, 'spent', whole(amount))
  if step_seconds > 0 then
    local step = math.floor(now / step_seconds)
    redis.call('HINCRBY', key, 'b:' .. whole(step), whole(amount))
    -- What is told late may lie before all that is there, and has to leave before it.
    local first = tonumber(redis.call('HGET', key, 'first'))
    if not first or step < first then redis.call('HSET', key, 'first', whole(step)) end
  end
end

-- How many changes a replica has made here: one that knows of more knows that some were lost.
local function count(prefix, replica) return redis.call('HINCRBY', prefix .. 'changes', replica, 1) end

-- spent, held, granted
local function standing(key, now)
  local found = redis.call('HMGET', key, 'spent', 'held', 'extra', 'grace', 'grace_until')
  local granted = tonumber(found[3] or '0')
  if found[5] and now < tonumber(found[5]) then granted = granted + tonumber(found[4]) end
  return tonumber(found[1] or '0'), tonumber(found[2] or '0'), granted
end

local function read_hold(key)
  local hold, flat = {}, redis.call('HGETALL', key)
  for i = 1, #flat, 2 do hold[flat[i]] = flat[i + 1] end
  return hold
end

-- Holds whose lease ran out are charged in full; the record stays for a day, so that a late settlement puts it right.
local EXPIRED_KEPT_SECONDS = 86400

local function expire(prefix, leases, now, most)
  local late = redis.call('ZRANGEBYSCORE', leases, '-inf', whole(math.floor(now)), 'LIMIT', 0, most)
  for _, id in ipairs(late) do
    local key = prefix .. 'hold:' .. id
    local hold = read_hold(key)
    for i = 1, tonumber(hold.n or '0') do
      local amount = tonumber(hold['h' .. i])
      redis.call('HINCRBY', hold['a' .. i], 'held', whole(-amount))
      book(hold['a' .. i], tonumber(hold['s' .. i]), amount, now)
    end
    if hold.n then
      redis.call('HSET', key, 'expired', whole(math.floor(now)))
      redis.call('EXPIRE', key, EXPIRED_KEPT_SECONDS)
    end
    redis.call('ZREM', leases, id)
  end
  return #late
end

-- Give a hold back: what was held, or what its expiry was charged.
local function close(prefix, leases, id)
  local hold = read_hold(prefix .. 'hold:' .. id)
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
  if hold.n then
    redis.call('DEL', prefix .. 'hold:' .. id)
    redis.call('ZREM', leases, id)
    redis.call('SREM', prefix .. 'open:' .. hold.replica, id)
  end
end
