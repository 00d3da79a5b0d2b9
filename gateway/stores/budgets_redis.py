"""Budgets shared by replicas: the book's transitions as Lua scripts on Redis or Valkey, one round trip each.

Reserving awaits the store; resolving only queues, and `flush` (a background task) delivers until the store has taken it.
Both are idempotent by reservation id. A hold that nobody resolves is charged in full when its lease runs out, by the
server's clock. A store that does not answer in time means no call: closed, never unbudgeted.

Amounts are compared as Lua numbers, exact up to 2**53 (nine million dollars in nUSD). All keys share one hash tag.
"""

import logging
from collections import deque
from collections.abc import Sequence

import redis.asyncio as redis_client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ..accounting.budgets import Amounts, Exceeded, Line, Reservation
from ..errors import Overloaded

log = logging.getLogger(__name__)

# A store that needs longer is down (redis-py's own defaults wait 3.5 s on a dead server and 20 s on a hung one).
TIMEOUT_SECONDS = 0.05
_CONNECTIONS = 16
# Resolutions that wait for the store. Beyond it new calls are refused: their holds could not be resolved either.
PENDING_MAX = 20_000
_FLUSH_BATCH = 200
# Accounts of a window are forgotten this long after their last hold (longer than a month), those of a session sooner;
# those of "total" budgets never.
_KEEP_SECONDS, _KEEP_SESSION_SECONDS = 40 * 86_400, 2 * 86_400
_PREFIX = "penstock:{budgets}:"

# KEYS: leases, hold, tombstone, account... ARGV: id, prefix, lease, number of lines, limits..., keeps..., offers...
_RESERVE = """
local now = tonumber(redis.call('TIME')[1])
for _, late in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 20)) do
  local hold = redis.call('HGETALL', ARGV[2] .. 'hold:' .. late)
  for i = 1, #hold, 2 do
    redis.call('HINCRBY', hold[i], 'held', '-' .. hold[i + 1])
    redis.call('HINCRBY', hold[i], 'spent', hold[i + 1])
  end
  redis.call('DEL', ARGV[2] .. 'hold:' .. late)
  redis.call('ZREM', KEYS[1], late)
end
if redis.call('EXISTS', KEYS[3]) == 1 then return {'dead'} end
local lines = tonumber(ARGV[4])
local spent, held = {}, {}
for i = 1, lines do
  local found = redis.call('HMGET', KEYS[3 + i], 'spent', 'held')
  spent[i], held[i] = found[1] or '0', found[2] or '0'
end
local broken
local offer, first = 0, 4 + 2 * lines
while first < #ARGV do
  broken = nil
  for i = 1, lines do
    local wanted = tonumber(ARGV[first + i])
    if wanted < 0 or tonumber(spent[i]) + tonumber(held[i]) + wanted > tonumber(ARGV[4 + i]) then
      broken = {'no', offer, i - 1, spent[i], held[i]}
      break
    end
  end
  if not broken then
    for i = 1, lines do
      redis.call('HINCRBY', KEYS[3 + i], 'held', ARGV[first + i])
      if ARGV[4 + lines + i] ~= '0' then redis.call('EXPIRE', KEYS[3 + i], ARGV[4 + lines + i]) end
      redis.call('HSET', KEYS[2], KEYS[3 + i], ARGV[first + i])
    end
    redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
    return {'yes', offer}
  end
  offer, first = offer + 1, first + lines
end
return broken
"""

# KEYS: leases, hold, tombstone, account... ARGV: id, spent...
# A resolution that finds no hold leaves a tombstone: the reservation may still be on its way, and must not be taken then.
_SETTLE = """
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('SET', KEYS[3], '1', 'EX', 900)
  return 0
end
for i = 1, #ARGV - 1 do
  redis.call('HINCRBY', KEYS[3 + i], 'held', '-' .. redis.call('HGET', KEYS[2], KEYS[3 + i]))
  redis.call('HINCRBY', KEYS[3 + i], 'spent', ARGV[1 + i])
end
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
"""


class RedisBudgets:
    """The exchange's Budgets on a shared store. Several processes may use the same one."""

    def __init__(self, url: str) -> None:
        pool = redis_client.BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._client = redis_client.Redis.from_pool(pool)
        self._reserve = self._client.register_script(_RESERVE)
        self._settle = self._client.register_script(_SETTLE)
        self._open: dict[str, tuple[Line, ...]] = {}
        self._pending: deque[tuple[str, tuple[Line, ...], Amounts]] = deque()
        self.failing = False

    async def reserve(
        self, reservation_id: str, lines: tuple[Line, ...], offers: Sequence[Amounts], *, now: float, lease: float
    ) -> Reservation | Exceeded:
        """Set aside the first offer that fits every line. Raises Overloaded if the store does not answer."""
        if len(self._pending) >= PENDING_MAX:
            raise Overloaded("The shared budget store is too far behind; no call is made unbudgeted.")
        if not lines:
            self._open[reservation_id] = lines
            return _reservation(reservation_id, 0, offers, lines, now + lease)
        amounts = [_text(offer[line.measure]) for offer in offers for line in lines]
        arguments: list[str | int] = [reservation_id, _PREFIX, round(lease), len(lines)]
        arguments += [*(line.limit for line in lines), *(_keep_seconds(line) for line in lines), *amounts]
        try:
            answer = await self._reserve(keys=_keys(reservation_id, lines), args=arguments)
        except (RedisError, OSError, TimeoutError) as error:
            self._give_back(reservation_id, lines)
            self._failed(error)
            raise Overloaded("The shared budget store does not answer; no call is made unbudgeted.") from error
        except BaseException:
            # The caller hung up while we waited.
            self._give_back(reservation_id, lines)
            raise
        self.failing = False
        if answer[0] == b"yes":
            self._open[reservation_id] = lines
            return _reservation(reservation_id, int(answer[1]), offers, lines, now + lease)
        assert answer[0] == b"no", "a reservation id is used once"
        line = lines[int(answer[2])]
        return Exceeded(
            line=line, spent=int(answer[3]), held=int(answer[4]), wanted=offers[int(answer[1])][line.measure]
        )

    def settle(self, reservation_id: str, spent: Amounts) -> bool:
        """Queue the resolution; False if it was resolved before."""
        lines = self._open.pop(reservation_id, None)
        if lines is None:
            return False
        if lines:
            self._pending.append((reservation_id, lines, spent))
        return True

    async def flush(self) -> None:
        """Deliver what is queued, oldest first; what the store does not take stays queued."""
        while self._pending:
            batch = [self._pending[place] for place in range(min(_FLUSH_BATCH, len(self._pending)))]
            try:
                async with self._client.pipeline(transaction=False) as pipe:
                    for reservation_id, lines, spent in batch:
                        amounts = [_text(spent[line.measure] or 0) for line in lines]
                        await self._settle(
                            keys=_keys(reservation_id, lines), args=[reservation_id, *amounts], client=pipe
                        )
                    await pipe.execute()
            except (RedisError, OSError, TimeoutError) as error:
                self._failed(error)
                return
            for _ in batch:
                self._pending.popleft()
            self.failing = False

    @property
    def backlog(self) -> int:
        """Resolutions that the store has not yet taken."""
        return len(self._pending)

    @property
    def open_holds(self) -> int:
        """Reservations of this process that wait for their resolution."""
        return len(self._open)

    async def standing(self, line: Line) -> tuple[int, int]:
        """(spent, held) of the line's account now."""
        found = await self._client.hmget(_account(line), ["spent", "held"])
        spent, held = found
        return int(spent or 0), int(held or 0)

    async def close(self) -> None:
        """Deliver what can be delivered and hang up."""
        await self.flush()
        if self._pending:
            log.error(
                "%d resolutions were not delivered; their holds expire and are charged in full", len(self._pending)
            )
        await self._client.aclose()

    def _give_back(self, reservation_id: str, lines: tuple[Line, ...]) -> None:
        """The hold may have been taken all the same: undo it, whenever the store hears of it."""
        self._pending.append((reservation_id, lines, (0, 0, 0)))

    def _failed(self, error: Exception) -> None:
        if not self.failing:
            log.error("the shared budget store does not answer: %s", type(error).__name__)
        self.failing = True


def _reservation(
    reservation_id: str, choice: int, offers: Sequence[Amounts], lines: tuple[Line, ...], expires_at: float
) -> Reservation:
    return Reservation(id=reservation_id, choice=choice, amounts=offers[choice], lines=lines, expires_at=expires_at)


def _keys(reservation_id: str, lines: Sequence[Line]) -> list[str]:
    fixed = [f"{_PREFIX}leases", f"{_PREFIX}hold:{reservation_id}", f"{_PREFIX}tomb:{reservation_id}"]
    return [*fixed, *map(_account, lines)]


def _keep_seconds(line: Line) -> int:
    if line.session:
        return _KEEP_SESSION_SECONDS
    return 0 if line.resets_at is None else _KEEP_SECONDS


def _account(line: Line) -> str:
    return f"{_PREFIX}account:{line.account}"


def _text(amount: int | None) -> str:
    return "-1" if amount is None else str(amount)
