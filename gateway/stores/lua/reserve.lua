-- Reserve the first offer that fits every line, else the first that fits when shrunk.
-- KEYS: leases, epoch, opens, hold, tomb, account... ARGV: request as JSON (budget_messages.reserve_request), prefix.
local request = cjson.decode(ARGV[1])
local now = NOW()
if redis.call('GET', KEYS[2]) ~= request.epoch then return {'epoch'} end
local opens_at = redis.call('GET', KEYS[3])
if opens_at and now < tonumber(opens_at) then return {'opens'} end
expire_holds(ARGV[2], KEYS[1], now, 20)
if redis.call('EXISTS', KEYS[4], KEYS[5]) > 0 then return {'dead'} end

local lines = request.lines
for i, line in ipairs(lines) do
  local is_over = line.resets_at >= 0 and now >= line.resets_at
  if now < line.starts_at or is_over then return {'stale', whole(now * 1000)} end
  line.key = KEYS[5 + i]
  roll_window(line.key, line.bucket_seconds, line.bucket_count, now)
  line.spent, line.held, line.granted = balance(line.key, now)
end

-- Index in the offer of the first line that these amounts exceed, nil if they fit; `without_holds`: by what is spent
-- alone.
local function exceeded_line(offer, amounts, ceilings, without_holds)
  for i, index in ipairs(offer.lines) do
    local line = lines[index + 1]
    if not line.is_shadow then
      local amount, ceiling = amounts[i], ceilings[i]
      local booked = without_holds and line.spent or line.spent + line.held
      if amount < 0 or booked + amount > ceiling + line.granted then return i end
    end
  end
end

local function amounts_at(offer, output)
  local amounts, shrinkage = {}, offer.shrinkage
  for i = 1, #offer.lines do amounts[i] = shrinkage.fixed_amounts[i] + shrinkage.amounts_per_token[i] * output end
  return amounts
end

local function take_hold(number, offer, amounts, output, exceeded)
  local answer = {'yes', number, output, exceeded, count_change(ARGV[2], request.replica), whole(now * 1000)}
  local hold = {}
  for i, index in ipairs(offer.lines) do
    local line, amount = lines[index + 1], math.max(amounts[i], 0)
    redis.call('HINCRBY', line.key, 'held', whole(amount))
    if line.retention_seconds > 0 then redis.call('EXPIRE', line.key, line.retention_seconds) end
    local at = #hold
    hold[at + 1], hold[at + 2], hold[at + 3] = 'a' .. i, line.key, 'h' .. i
    hold[at + 4], hold[at + 5], hold[at + 6] = whole(amount), 's' .. i, line.bucket_seconds
    -- Lua unpacks a few thousand values at most.
    if #hold >= 600 then
      redis.call('HSET', KEYS[4], unpack(hold))
      hold = {}
    end
    for _, figure in ipairs({whole(line.spent), whole(line.held + amount), whole(line.granted)}) do
      answer[#answer + 1] = figure
    end
  end
  redis.call('HSET', KEYS[4], 'n', #offer.lines, 'replica', request.replica, unpack(hold))
  redis.call('ZADD', KEYS[1], whole(math.floor(now + request.lease)), request.id)
  redis.call('SADD', ARGV[2] .. 'open:' .. request.replica, request.id)
  -- The store's totals of this replica: an earlier process may have reported more than its ledger has.
  for _, index in ipairs(offer.lines) do
    local line = lines[index + 1]
    local total = line.needs_total and redis.call('HGET', ARGV[2] .. 'totals:' .. line.account, request.replica)
    answer[#answer + 1] = total or '0'
  end
  return answer
end

local exceeded = -1
for number, offer in ipairs(request.offers) do
  if offer.shrinkage == cjson.null then offer.shrinkage = nil end
  local at = exceeded_line(offer, offer.amounts, offer.ceilings)
  if not at then return take_hold(number - 1, offer, offer.amounts, -1, exceeded) end
  if exceeded < 0 then exceeded = offer.lines[at] end
end
for number, offer in ipairs(request.offers) do
  local shrinkage = offer.shrinkage
  if shrinkage then
    local output = shrinkage.output_tokens_max
    for i, index in ipairs(offer.lines) do
      local line, per_token = lines[index + 1], shrinkage.amounts_per_token[i]
      if per_token > 0 and not line.is_shadow then
        local available = shrinkage.thresholds[i] + line.granted - line.spent - line.held - shrinkage.fixed_amounts[i]
        output = math.min(output, math.floor(available / per_token))
      end
    end
    output = math.max(output, shrinkage.output_tokens_min)
    local amounts = amounts_at(offer, output)
    if not exceeded_line(offer, amounts, shrinkage.ceilings) then
      return take_hold(number - 1, offer, amounts, output, exceeded)
    end
  end
end

local function refusal(number, at, amounts, is_held)
  local line = lines[request.offers[number].lines[at] + 1]
  return {
    'no', number - 1, at - 1, whole(line.spent), whole(line.held), whole(line.granted), is_held, whole(amounts[at]),
  }
end

-- By the first offer that only holds keep out, with its largest or else its smallest hold; if there is none, by the last
-- with a known amount, else by the last.
local last, known, known_at
for number, offer in ipairs(request.offers) do
  local shrinkage = offer.shrinkage
  last = exceeded_line(offer, offer.amounts, offer.ceilings, true)
  if not last then return refusal(number, exceeded_line(offer, offer.amounts, offer.ceilings), offer.amounts, 1) end
  if shrinkage then
    local least = amounts_at(offer, shrinkage.output_tokens_min)
    last = exceeded_line(offer, least, shrinkage.ceilings, true)
    if not last then return refusal(number, exceeded_line(offer, least, shrinkage.ceilings), least, 1) end
  end
  if offer.amounts[last] >= 0 then known, known_at = number, last end
end
if known then return refusal(known, known_at, request.offers[known].amounts, 0) end
return refusal(#request.offers, last, request.offers[#request.offers].amounts, 0)
