"""Session forecasts, learned from the sessions served.

State: how many calls follow, how much input each adds, how often the needed tier rises and falls, and the share of a
warm history that a deployment's cache really serves.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping

from ..values.base import Value
from .expected_cost import CACHE_TOKENS_MIN, SessionForecast

# Bins of the calls made by a session, doubling from the eighth on: 1, 2, ..., 8, 9-16, 17-32, ...
_LENGTH_BINS = 24
# The prior counts as this many sessions: a session of any age is expected to make _PRIOR_CALLS_LEFT more calls (3,308
# recorded agent sessions have 6.8 on average, 4 at the median).
_PRIOR_SESSION_WEIGHT, _PRIOR_CALLS_LEFT = 4.0, 6.0
# The prior counts as this many calls. Set by hand between chat and agents: in the same sessions, at a ceiling of 0.35,
# 0.20 of the calls at the lowest tier are followed by one that needs a higher tier, 0.03 of the others by one that does
# not; each adds 290 tokens.
_PRIOR_CALL_WEIGHT, _PRIOR_ESCALATION, _PRIOR_DEESCALATION, _PRIOR_GROWTH_TOKENS = 20.0, 0.1, 0.2, 600.0
# Prior share of a warm history that a cache serves, and the weight of the newest call; set by hand.
_PRIOR_CACHE_HIT_SHARE, _CACHE_HIT_EWMA_WEIGHT = 0.8, 0.2
# Lifetime of prompt caches (OpenAI: five to ten minutes; Anthropic: five, or an hour on request; docs of 2026).
CACHE_SECONDS, CACHE_SECONDS_LONG = 300.0, 3600.0
_TASK_TYPES_MAX = 500
# Calls after which older ones count half.
_HALVE_AT_CALLS = 20_000.0


class CachedPrefix(Value, frozen=True, kw_only=True):
    """The part of a session that a deployment's cache may hold.

    tokens: input and output tokens of the last call there
    expires_at: end of the cache's lifetime, seconds
    """

    tokens: int
    expires_at: float


class _CallStats:
    __slots__ = (
        "calls",
        "deescalated",
        "escalated",
        "growth_tokens",
        "high_tier_calls",
        "low_tier_calls",
        "sessions_by_length",
    )

    def __init__(self) -> None:
        self.sessions_by_length = [0.0] * _LENGTH_BINS
        self.calls = self.growth_tokens = self.low_tier_calls = self.escalated = self.high_tier_calls = (
            self.deescalated
        ) = 0.0


class SessionForecaster:
    """Statistics by task type, from every served call; bounded, slowly decaying."""

    def __init__(self) -> None:
        self._call_stats: OrderedDict[str, _CallStats] = OrderedDict()
        self._cache_hit_shares: dict[str, float] = {}

    def record_call(
        self,
        task_type: str,
        number: int,
        *,
        needs_higher_tier: bool,
        previous_needed_higher_tier: bool | None,
        grown_tokens: int,
    ) -> None:
        """Record a served call.

        number: the call's number in its session, from 1
        needs_higher_tier: whether it needed a higher tier than the lowest
        previous_needed_higher_tier: the same of the previous call, None if there was none
        grown_tokens: growth of its input since the previous call
        """
        group = self._call_stats.get(task_type)
        if group is None:
            group = self._call_stats[task_type] = _CallStats()
            if len(self._call_stats) > _TASK_TYPES_MAX:
                self._call_stats.popitem(last=False)
        else:
            self._call_stats.move_to_end(task_type)
        group.sessions_by_length[_bin(number)] += 1 / _bin_width(_bin(number))
        group.calls += 1
        if previous_needed_higher_tier is False:
            group.low_tier_calls += 1
            group.escalated += needs_higher_tier
        elif previous_needed_higher_tier:
            group.high_tier_calls += 1
            group.deescalated += not needs_higher_tier
        group.growth_tokens += max(0, grown_tokens)
        if group.calls > _HALVE_AT_CALLS:
            group.sessions_by_length = [count / 2 for count in group.sessions_by_length]
            group.calls, group.growth_tokens = group.calls / 2, group.growth_tokens / 2
            group.low_tier_calls, group.escalated = group.low_tier_calls / 2, group.escalated / 2
            group.high_tier_calls, group.deescalated = group.high_tier_calls / 2, group.deescalated / 2

    def call_count(self, task_type: str) -> float:
        """Served calls behind a task type's forecasts; older ones count less."""
        group = self._call_stats.get(task_type)
        return group.calls if group is not None else 0.0

    def record_cache_read(self, deployment: str, expected_tokens: int, cached_tokens: int) -> None:
        """Record how many of the tokens expected to be warm were charged as cached."""
        if expected_tokens >= CACHE_TOKENS_MIN:
            share = min(1.0, cached_tokens / expected_tokens)
            before = self._cache_hit_shares.get(deployment, _PRIOR_CACHE_HIT_SHARE)
            self._cache_hit_shares[deployment] = before + _CACHE_HIT_EWMA_WEIGHT * (share - before)

    def _cache_hit_share(self, deployment: str) -> float:
        """Share of a warm history that the deployment's cache serves, in [0, 1]."""
        return self._cache_hit_shares.get(deployment, _PRIOR_CACHE_HIT_SHARE)

    def forecast(self, task_type: str, calls: int, warm: Mapping[str, CachedPrefix], *, now: float) -> SessionForecast:
        """The forecast for a session that has made `calls` calls.

        warm: by deployment, the part of the session that its cache may hold
        now: seconds, on the clock of `CachedPrefix.expires_at`
        """
        group = self._call_stats.get(task_type)
        if group is None:
            calls_left, escalation, deescalation, growth = (
                _PRIOR_CALLS_LEFT,
                _PRIOR_ESCALATION,
                _PRIOR_DEESCALATION,
                _PRIOR_GROWTH_TOKENS,
            )
        else:
            calls_left = _calls_left(group, calls)
            escalation = (group.escalated + _PRIOR_CALL_WEIGHT * _PRIOR_ESCALATION) / (
                group.low_tier_calls + _PRIOR_CALL_WEIGHT
            )
            deescalation = (group.deescalated + _PRIOR_CALL_WEIGHT * _PRIOR_DEESCALATION) / (
                group.high_tier_calls + _PRIOR_CALL_WEIGHT
            )
            growth = (group.growth_tokens + _PRIOR_CALL_WEIGHT * _PRIOR_GROWTH_TOKENS) / (
                group.calls + _PRIOR_CALL_WEIGHT
            )
        warm_tokens = {
            name: int(prefix.tokens * self._cache_hit_share(name))
            for name, prefix in warm.items()
            if prefix.expires_at > now and prefix.tokens >= CACHE_TOKENS_MIN
        }
        return SessionForecast(
            calls_left=calls_left,
            growth_tokens_per_call=growth,
            escalation_probability=escalation,
            deescalation_probability=deescalation,
            warm_tokens=warm_tokens,
        )


def _calls_left(group: _CallStats, calls: int) -> float:
    """Expected calls after the current one, over sessions that came this far."""
    current = _bin(calls + 1)
    reached = group.sessions_by_length[current]
    later = sum(group.sessions_by_length[index] * _bin_width(index) for index in range(current + 1, _LENGTH_BINS))
    return (later + _PRIOR_SESSION_WEIGHT * _PRIOR_CALLS_LEFT) / (reached + _PRIOR_SESSION_WEIGHT)


def _bin(number: int) -> int:
    return number - 1 if number <= 8 else min(_LENGTH_BINS - 1, 4 + math.ceil(math.log2(number)))


def _bin_width(index: int) -> int:
    """How many call numbers fall into a bin."""
    return 1 if index < 8 else 2 ** (index - 5)
