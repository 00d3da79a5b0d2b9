-- Set aside the first offer that fits every line, else the first that fits when shrunk.
-- KEYS: leases, epoch, opens, hold, tomb, account... ARGV: the question as JSON (see budgets_redis._question), prefix.
local ask = cjson.decode(ARGV[1])
local now = NOW()
if redis.call('GET', KEYS[2]) ~= ask.epoch then return {'epoch'} end
local opens = redis.call('GET', KEYS[3])
if opens and now < tonumber(opens) then return {'opens'} end
expire(ARGV[2], KEYS[1], now, 20)
if redis.call('EXISTS', KEYS[4], KEYS[5]) > 0 then return {'dead'} end

local lines = ask.lines
for i, line in ipairs(lines) do
  if now < line.starts or (line.resets >= 0 and now >= line.resets) then return {'stale', whole(now * 1000)} end
  line.key = KEYS[5 + i]
  roll(line.key, line.step, line.steps, now)
  line.spent, line.held, line.granted = standing(line.key, now)
end

-- The first line (by its place in the offer) that these amounts break, nil if they fit.
local function broken(offer, wanted, ceilings)
  for i, place in ipairs(offer.lines) do
    local line = lines[place + 1]
    if not line.shadow then
      local amount, ceiling = wanted[i], ceilings[i]
      if amount < 0 or line.spent + line.held + amount > ceiling + line.granted then return i end
    end
  end
end

local function take(number, offer, wanted, output, passed)
  local answer = {'yes', number, output, passed, count(ARGV[2], ask.replica), whole(now * 1000)}
  local hold = {}
  for i, place in ipairs(offer.lines) do
    local line, amount = lines[place + 1], math.max(wanted[i], 0)
    redis.call('HINCRBY', line.key, 'held', whole(amount))
    if line.keep > 0 then redis.call('EXPIRE', line.key, line.keep) end
    local at = #hold
    hold[at + 1], hold[at + 2], hold[at + 3] = 'a' .. i, line.key, 'h' .. i
    hold[at + 4], hold[at + 5], hold[at + 6] = whole(amount), 's' .. i, line.step
    -- Lua unpacks a few thousand values at most.
    if #hold >= 600 then
      redis.call('HSET', KEYS[4], unpack(hold))
      hold = {}
    end
    for _, part in ipairs({whole(line.spent), whole(line.held + amount), whole(line.granted)}) do
      answer[#answer + 1] = part
    end
  end
  redis.call('HSET', KEYS[4], 'n', #offer.lines, 'replica', ask.replica, unpack(hold))
  redis.call('ZADD', KEYS[1], whole(math.floor(now + ask.lease)), ask.id)
  redis.call('SADD', ARGV[2] .. 'open:' .. ask.replica, ask.id)
  -- What the store has of this replica's totals, where an earlier process may have told more than the ledger knows now.
  for _, place in ipairs(offer.lines) do
    local line = lines[place + 1]
    local base = line.base and redis.call('HGET', ARGV[2] .. 'totals:' .. line.account, ask.replica)
    answer[#answer + 1] = base or '0'
  end
  return answer
end

local passed, last = -1, nil
for number, offer in ipairs(ask.offers) do
  local at = broken(offer, offer.wanted, offer.ceilings)
  if not at then return take(number - 1, offer, offer.wanted, -1, passed) end
  if passed < 0 then passed = offer.lines[at] end
  last = {number - 1, at}
end
for number, offer in ipairs(ask.offers) do
  local smaller = offer.smaller
  if smaller and smaller ~= cjson.null then
    local output = smaller.most
    for i, place in ipairs(offer.lines) do
      local line, each = lines[place + 1], smaller.per_token[i]
      if each > 0 and not line.shadow then
        local room = smaller.thresholds[i] + line.granted - line.spent - line.held - smaller.fixed[i]
        output = math.min(output, math.floor(room / each))
      end
    end
    output = math.max(output, smaller.least)
    local wanted = {}
    for i = 1, #offer.lines do wanted[i] = smaller.fixed[i] + smaller.per_token[i] * output end
    if not broken(offer, wanted, smaller.ceilings) then return take(number - 1, offer, wanted, output, passed) end
  end
end
local line = lines[ask.offers[last[1] + 1].lines[last[2]] + 1]
return {'no', last[1], last[2] - 1, whole(line.spent), whole(line.held), whole(line.granted)}
