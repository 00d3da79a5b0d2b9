"""What sessions usually do next, learnt from those that were served: how many calls follow, how much input each adds,
how often one that did well with the lowest tier is followed by one that wants more (and the other way round), and how
much of a history a deployment's cache really gives back. A book.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping

from ..values.base import Value
from .expected_cost import CACHE_TOKENS_MIN, SessionForecast

# Calls a session has made, in bins that double from the eighth on: (1, 2, ..., 8, 9-16, 17-32, ...).
_LENGTH_BINS = 24
# Worth so many observed sessions: until then a session of any age is expected to make `_PRIOR_TURNS` more calls (3,308
# recorded agent sessions have 6.8 on average, 4 at the median).
_PRIOR_SESSION_WEIGHT, _PRIOR_CALLS_LEFT = 4.0, 6.0
# Worth so many observed calls. Set by hand between chat and agents: in the same sessions, at a ceiling of 0.35, 0.20 of the
# content calls are followed by one that wants more, 0.03 of those that want more by a content one; each adds 290 tokens.
_PRIOR_CALL_WEIGHT, _PRIOR_ESCALATION, _PRIOR_DEESCALATION, _PRIOR_GROWTH_TOKENS = 20.0, 0.1, 0.2, 600.0
# The share of a warm history that a provider gives back, before it was ever seen, and the weight of the newest call: by hand.
_PRIOR_CACHE_HIT_SHARE, _CACHE_HIT_EWMA_WEIGHT = 0.8, 0.2
# How long prompt caches keep (OpenAI: five to ten minutes; Anthropic: five, or an hour where it is asked for; docs of
# 2026).
CACHE_SECONDS, CACHE_SECONDS_LONG = 300.0, 3600.0
_TASK_TYPES_MAX = 500
# Calls after which old ones count half.
_HALVE_AT_CALLS = 20_000.0


class CachedPrefix(Value, frozen=True, kw_only=True):
    """What a deployment read of a session last: tokens that its cache may hold, until when (seconds)."""

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
    """By task type; bounded. Learns from every call that was answered, forgets slowly."""

    def __init__(self) -> None:
        self._call_stats: OrderedDict[str, _CallStats] = OrderedDict()
        self._cache_hit_shares: dict[str, float] = {}

    def record_call(self, task_type: str, number: int, *, high: bool, before: bool | None, grown_tokens: int) -> None:
        """A session's `number`-th call (from 1) was answered; whether it wanted a higher tier than the lowest, whether
        the call before did (None: there was none), and by how many tokens its input had grown."""
        group = self._call_stats.get(task_type)
        if group is None:
            group = self._call_stats[task_type] = _CallStats()
            if len(self._call_stats) > _TASK_TYPES_MAX:
                self._call_stats.popitem(last=False)
        else:
            self._call_stats.move_to_end(task_type)
        group.sessions_by_length[_bin(number)] += 1 / _bin_width(_bin(number))
        group.calls += 1
        if before is False:
            group.low_tier_calls += 1
            group.escalated += high
        elif before:
            group.high_tier_calls += 1
            group.deescalated += not high
        group.growth_tokens += max(0, grown_tokens)
        if group.calls > _HALVE_AT_CALLS:
            group.sessions_by_length = [count / 2 for count in group.sessions_by_length]
            group.calls, group.growth_tokens = group.calls / 2, group.growth_tokens / 2
            group.low_tier_calls, group.escalated = group.low_tier_calls / 2, group.escalated / 2
            group.high_tier_calls, group.deescalated = group.high_tier_calls / 2, group.deescalated / 2

    def record_cache_read(self, deployment: str, expected_tokens: int, cached_tokens: int) -> None:
        """Where so many tokens were expected to be warm, so many were charged as cached."""
        if expected_tokens >= CACHE_TOKENS_MIN:
            seen = min(1.0, cached_tokens / expected_tokens)
            before = self._cache_hit_shares.get(deployment, _PRIOR_CACHE_HIT_SHARE)
            self._cache_hit_shares[deployment] = before + _CACHE_HIT_EWMA_WEIGHT * (seen - before)

    def _cache_hit_share(self, deployment: str) -> float:
        """The part of a warm history that its cache gives back, in [0, 1]."""
        return self._cache_hit_shares.get(deployment, _PRIOR_CACHE_HIT_SHARE)

    def forecast(self, task_type: str, calls: int, warm: Mapping[str, CachedPrefix], *, now: float) -> SessionForecast:
        """What is expected of a session that has made so many calls."""
        group = self._call_stats.get(task_type)
        if group is None:
            turns, climbs, falls, growth = (
                _PRIOR_CALLS_LEFT,
                _PRIOR_ESCALATION,
                _PRIOR_DEESCALATION,
                _PRIOR_GROWTH_TOKENS,
            )
        else:
            turns = _calls_left(group, calls)
            climbs = (group.escalated + _PRIOR_CALL_WEIGHT * _PRIOR_ESCALATION) / (
                group.low_tier_calls + _PRIOR_CALL_WEIGHT
            )
            falls = (group.deescalated + _PRIOR_CALL_WEIGHT * _PRIOR_DEESCALATION) / (
                group.high_tier_calls + _PRIOR_CALL_WEIGHT
            )
            growth = (group.growth_tokens + _PRIOR_CALL_WEIGHT * _PRIOR_GROWTH_TOKENS) / (
                group.calls + _PRIOR_CALL_WEIGHT
            )
        held = {
            name: int(one.tokens * self._cache_hit_share(name))
            for name, one in warm.items()
            if one.expires_at > now and one.tokens >= CACHE_TOKENS_MIN
        }
        return SessionForecast(
            calls_left=turns,
            growth_tokens_per_call=growth,
            escalation_probability=climbs,
            deescalation_probability=falls,
            warm_tokens=held,
        )


def _calls_left(group: _CallStats, calls: int) -> float:
    """Calls that follow the one at hand: of the sessions that came so far, how many came how much farther."""
    place = _bin(calls + 1)
    came = group.sessions_by_length[place]
    farther = sum(group.sessions_by_length[one] * _bin_width(one) for one in range(place + 1, _LENGTH_BINS))
    return (farther + _PRIOR_SESSION_WEIGHT * _PRIOR_CALLS_LEFT) / (came + _PRIOR_SESSION_WEIGHT)


def _bin(number: int) -> int:
    return number - 1 if number <= 8 else min(_LENGTH_BINS - 1, 4 + math.ceil(math.log2(number)))


def _bin_width(place: int) -> int:
    """How many numbers of calls fall into a bin."""
    return 1 if place < 8 else 2 ** (place - 5)
