-- Functions shared by every script. Amounts are whole numbers below 2^53, exact as doubles; writes go through HINCRBY,
-- which counts in 64-bit integers. All keys of a tenant share one hash tag, so they are on one node.
--
-- An account is a hash: spent, held, extra, grace, grace_until; a rolling one also has b:<step> per step, and `first`.
-- A hold is a hash: n lines as a<i> (account key), h<i> (amount), s<i> (seconds of a step, 0 for calendar accounts),
-- `replica`, `extensions`, and `expired` (the time at which it was charged in full).

-- Adding 0 removes the sign of a negative zero, which HINCRBY rejects.
local function whole(number) return string.format('%.0f', number + 0) end

-- Remove the steps that have left a rolling window.
local function roll_window(key, step_seconds, steps, now)
  if step_seconds == 0 then return end
  local first = tonumber(redis.call('HGET', key, 'first'))
  local oldest = math.floor(now / step_seconds) - steps + 1
  if not first or first >= oldest then return end
  local expired = {}
  if oldest - first <= steps then
    for step = first, oldest - 1 do expired[#expired + 1] = 'b:' .. whole(step) end
  else
    -- Untouched for longer than the window: only the existing fields can be expired.
    for _, field in ipairs(redis.call('HKEYS', key)) do
      local step = tonumber(string.match(field, '^b:(%d+)$'))
      if step and step < oldest then expired[#expired + 1] = field end
    end
  end
  for _, field in ipairs(expired) do
    local amount = redis.call('HGET', key, field)
    if amount then
      redis.call('HINCRBY', key, 'spent', whole(-tonumber(amount)))
      redis.call('HDEL', key, field)
    end
  end
  redis.call('HSET', key, 'first', whole(oldest))
end

local function charge(key, step_seconds, amount, now)
  if amount == 0 then return end
  redis.call('HINCRBY', key, 'spent', whole(amount))
  if step_seconds > 0 then
    local step = math.floor(now / step_seconds)
    redis.call('HINCRBY', key, 'b:' .. whole(step), whole(amount))
    -- A late charge may precede every other step, and has to expire before them.
    local first = tonumber(redis.call('HGET', key, 'first'))
    if not first or step < first then redis.call('HSET', key, 'first', whole(step)) end
  end
end

-- Count a change by a replica; a replica that knows a higher count knows that writes were lost.
local function count_change(prefix, replica) return redis.call('HINCRBY', prefix .. 'changes', replica, 1) end

-- Returns spent, held, granted.
local function balance(key, now)
  local fields = redis.call('HMGET', key, 'spent', 'held', 'extra', 'grace', 'grace_until')
  local granted = tonumber(fields[3] or '0')
  if fields[5] and now < tonumber(fields[5]) then granted = granted + tonumber(fields[4]) end
  return tonumber(fields[1] or '0'), tonumber(fields[2] or '0'), granted
end

local function read_hold(key)
  local hold, flat = {}, redis.call('HGETALL', key)
  for i = 1, #flat, 2 do hold[flat[i]] = flat[i + 1] end
  return hold
end

-- The record of an expired hold is kept for a day, so that a late settlement can correct its charge.
local EXPIRED_KEPT_SECONDS = 86400

-- Charge holds with an expired lease in full, at most `limit` of them.
local function expire_holds(prefix, leases, now, limit)
  local ids = redis.call('ZRANGEBYSCORE', leases, '-inf', whole(math.floor(now)), 'LIMIT', 0, limit)
  for _, id in ipairs(ids) do
    local key = prefix .. 'hold:' .. id
    local hold = read_hold(key)
    for i = 1, tonumber(hold.n or '0') do
      local amount = tonumber(hold['h' .. i])
      redis.call('HINCRBY', hold['a' .. i], 'held', whole(-amount))
      charge(hold['a' .. i], tonumber(hold['s' .. i]), amount, now)
    end
    if hold.n then
      redis.call('HSET', key, 'expired', whole(math.floor(now)))
      redis.call('EXPIRE', key, EXPIRED_KEPT_SECONDS)
    end
    redis.call('ZREM', leases, id)
  end
  return #ids
end

-- Release a hold: the held amount, or the charge of its expiry.
local function release_hold(prefix, leases, id)
  local hold = read_hold(prefix .. 'hold:' .. id)
  for i = 1, tonumber(hold.n or '0') do
    local key, amount, step_seconds = hold['a' .. i], tonumber(hold['h' .. i]), tonumber(hold['s' .. i])
    if not hold.expired then
      redis.call('HINCRBY', key, 'held', whole(-amount))
    elseif step_seconds == 0 then
      redis.call('HINCRBY', key, 'spent', whole(-amount))
    else
      local bucket = 'b:' .. whole(math.floor(tonumber(hold.expired) / step_seconds))
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
