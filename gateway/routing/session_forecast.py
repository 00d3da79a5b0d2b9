"""What sessions usually do next, learnt from those that were served: how many calls follow, how much input each adds,
how often one that did well with the lowest tier is followed by one that wants more (and the other way round), and how
much of a history a deployment's cache really gives back. A book.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping

from ..values.base import Value
from .expected_cost import CACHE_TOKENS_MIN, Outlook

# Calls a session has made, in bins that double from the eighth on: (1, 2, ..., 8, 9-16, 17-32, ...).
_BINS = 24
# Worth so many observed sessions: until then a session of any age is expected to make `_PRIOR_TURNS` more calls (3,308
# recorded agent sessions have 6.8 on average, 4 at the median).
_PRIOR_SESSIONS, _PRIOR_TURNS = 4.0, 6.0
# Worth so many observed calls. Set by hand between chat and agents: in the same sessions, at a ceiling of 0.35, 0.20 of the
# content calls are followed by one that wants more, 0.03 of those that want more by a content one; each adds 290 tokens.
_PRIOR_CALLS, _PRIOR_CLIMBS, _PRIOR_FALLS, _PRIOR_GROWTH_TOKENS = 20.0, 0.1, 0.2, 600.0
# The share of a warm history that a provider gives back, before it was ever seen, and the weight of the newest call: by hand.
_PRIOR_HIT, _HIT_WEIGHT = 0.8, 0.2
# How long prompt caches keep (OpenAI: five to ten minutes; Anthropic: five, or an hour where it is asked for; docs of
# 2026).
CACHE_SECONDS, CACHE_SECONDS_LONG = 300.0, 3600.0
_GROUPS_MAX = 500
# Calls after which old ones count half.
_HALVED_AT = 20_000.0


class Warm(Value, frozen=True, kw_only=True):
    """What a deployment read of a session last: tokens that its cache may hold, until when (seconds)."""

    tokens: int
    until: float


class _Group:
    __slots__ = ("calls", "climbed", "fallen", "grown", "high", "low", "reached")

    def __init__(self) -> None:
        self.reached = [0.0] * _BINS
        self.calls = self.grown = self.low = self.climbed = self.high = self.fallen = 0.0


class ProspectBook:
    """By task type; bounded. Learns from every call that was answered, forgets slowly."""

    def __init__(self) -> None:
        self._groups: OrderedDict[str, _Group] = OrderedDict()
        self._hits: dict[str, float] = {}

    def served(self, task_type: str, number: int, *, high: bool, before: bool | None, grown_tokens: int) -> None:
        """A session's `number`-th call (from 1) was answered; whether it wanted a higher tier than the lowest, whether
        the call before did (None: there was none), and by how many tokens its input had grown."""
        group = self._groups.get(task_type)
        if group is None:
            group = self._groups[task_type] = _Group()
            if len(self._groups) > _GROUPS_MAX:
                self._groups.popitem(last=False)
        else:
            self._groups.move_to_end(task_type)
        group.reached[_bin(number)] += 1 / _width(_bin(number))
        group.calls += 1
        if before is False:
            group.low += 1
            group.climbed += high
        elif before:
            group.high += 1
            group.fallen += not high
        group.grown += max(0, grown_tokens)
        if group.calls > _HALVED_AT:
            group.reached = [count / 2 for count in group.reached]
            group.calls, group.grown = group.calls / 2, group.grown / 2
            group.low, group.climbed = group.low / 2, group.climbed / 2
            group.high, group.fallen = group.high / 2, group.fallen / 2

    def read(self, deployment: str, expected_tokens: int, cached_tokens: int) -> None:
        """Where so many tokens were expected to be warm, so many were charged as cached."""
        if expected_tokens >= CACHE_TOKENS_MIN:
            seen = min(1.0, cached_tokens / expected_tokens)
            before = self._hits.get(deployment, _PRIOR_HIT)
            self._hits[deployment] = before + _HIT_WEIGHT * (seen - before)

    def _hit_share(self, deployment: str) -> float:
        """The part of a warm history that its cache gives back, in [0, 1]."""
        return self._hits.get(deployment, _PRIOR_HIT)

    def outlook(self, task_type: str, calls: int, warm: Mapping[str, Warm], *, now: float) -> Outlook:
        """What is expected of a session that has made so many calls."""
        group = self._groups.get(task_type)
        if group is None:
            turns, climbs, falls, growth = _PRIOR_TURNS, _PRIOR_CLIMBS, _PRIOR_FALLS, _PRIOR_GROWTH_TOKENS
        else:
            turns = _turns_left(group, calls)
            climbs = (group.climbed + _PRIOR_CALLS * _PRIOR_CLIMBS) / (group.low + _PRIOR_CALLS)
            falls = (group.fallen + _PRIOR_CALLS * _PRIOR_FALLS) / (group.high + _PRIOR_CALLS)
            growth = (group.grown + _PRIOR_CALLS * _PRIOR_GROWTH_TOKENS) / (group.calls + _PRIOR_CALLS)
        held = {
            name: int(one.tokens * self._hit_share(name))
            for name, one in warm.items()
            if one.until > now and one.tokens >= CACHE_TOKENS_MIN
        }
        return Outlook(turns=turns, growth_tokens=growth, climbs=climbs, falls=falls, warm=held)


def _turns_left(group: _Group, calls: int) -> float:
    """Calls that follow the one at hand: of the sessions that came so far, how many came how much farther."""
    place = _bin(calls + 1)
    came = group.reached[place]
    farther = sum(group.reached[one] * _width(one) for one in range(place + 1, _BINS))
    return (farther + _PRIOR_SESSIONS * _PRIOR_TURNS) / (came + _PRIOR_SESSIONS)


def _bin(number: int) -> int:
    return number - 1 if number <= 8 else min(_BINS - 1, 4 + math.ceil(math.log2(number)))


def _width(place: int) -> int:
    """How many numbers of calls fall into a bin."""
    return 1 if place < 8 else 2 ** (place - 5)
