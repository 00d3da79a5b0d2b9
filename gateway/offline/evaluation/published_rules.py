"""Loop rules of other projects, reimplemented from their published thresholds.

Sources: design/loops.md, sections 1 and 5. Each is evaluated at every request with the turn that ended since, and
returns a level. Where a project counts within one process, the history is used; user turns do not reset a count unless
its rule does so.
"""

import re
from collections import Counter, deque
from enum import IntEnum
from typing import Protocol

from .decision_points import AgentTurn, DecisionPoint, TurnCall


class Level(IntEnum):
    """What a rule does at a request; each level includes the lower ones."""

    none = 0
    warn = 1
    nudge = 2
    stop = 3


class DetectionRule(Protocol):
    """One session's detector."""

    def level_at(self, moment: DecisionPoint) -> Level:
        """The level at this request."""

    def finish(self) -> None:
        """Called when the session is over."""


class TurnRule:
    """A rule that reads turns."""

    def level_at(self, moment: DecisionPoint) -> Level:
        """The level after the newest turn."""
        return Level.none if moment.last_turn is None else self.observe(moment.last_turn)

    def finish(self) -> None:
        """Nothing to do."""

    def observe(self, turn: AgentTurn) -> Level:
        """The level after one more turn."""
        raise NotImplementedError


# An error in a tool result: an exception's name or "error" at its start, or an error field.
_ERROR_PATTERN = re.compile(
    r'\s*(?:[\w.]*(?:Error|Exception)\b|error\b|traceback\b|\{\s*"(?:is_)?error"\s*:)', re.IGNORECASE
)


class OpenHands(TurnRule):
    """OpenHands V0, loops.md section 1.

    The same action and observation four times; the same action with an error three times; three identical agent
    messages with no observation between; A B A B A B in six steps. User messages are dropped, as in its headless mode.
    """

    def __init__(self) -> None:
        self._steps: deque[tuple[tuple[str, str], str | None]] = deque(maxlen=6)
        self._texts: list[str] = []

    def observe(self, turn: AgentTurn) -> Level:
        """Each call is an action; an answer without calls is one without observation."""
        if not turn.calls:
            self._texts = [*self._texts[-2:], turn.text]
            self._steps.append((("", turn.text), None))
            monologue = len(self._texts) == 3 and len(set(self._texts)) == 1
            return Level.stop if monologue or self._is_stuck() else Level.none
        stuck = False
        for call in turn.calls:
            self._texts = []
            self._steps.append(((call.name, call.arguments), call.result))
            stuck = stuck or self._is_stuck()
        return Level.stop if stuck else Level.none

    def _is_stuck(self) -> bool:
        steps = list(self._steps)
        if len(steps) >= 4 and len(set(steps[-4:])) == 1:
            return True
        last = steps[-3:]
        if (
            len({action for action, _ in last}) == 1
            and all(is_error_result(result) for _, result in last)
            and len(last) == 3
        ):
            return True
        return len(steps) == 6 and len(set(steps[::2])) == 1 and len(set(steps[1::2])) == 1


def is_error_result(result: str | None) -> bool:
    """Whether a tool's result looks like an error."""
    return result is not None and _ERROR_PATTERN.match(result) is not None


class GeminiCli(TurnRule):
    """gemini-cli, loops.md section 1 (R2+ in section 5).

    The same call five times in a row, or a cycle of up to five calls five times; names and arguments only. The first
    finding counts as the stop, as in section 5; the tool itself first gives feedback and halts at the second. Its text
    rule and its judge model are left out.
    """

    _MAX_PERIOD, _REPEATS = 5, 5

    def __init__(self) -> None:
        self._calls: deque[tuple[str, str]] = deque(maxlen=self._MAX_PERIOD * self._REPEATS)

    def observe(self, turn: AgentTurn) -> Level:
        """Look for a cycle after each call."""
        cycling = False
        for call in turn.calls:
            self._calls.append((call.name, call.arguments))
            cycling = cycling or self._is_cycling()
        return Level.stop if cycling else Level.none

    def _is_cycling(self) -> bool:
        calls = list(self._calls)
        for period in range(1, self._MAX_PERIOD + 1):
            length = period * self._REPEATS
            if len(calls) >= length and calls[-length:] == calls[-period:] * self._REPEATS:
                return True
        return False


class Crush(TurnRule):
    """Crush, loops.md section 1.

    The same (name, input, output) more than five times in the last ten steps. A step with several calls is one
    signature.
    """

    _WINDOW, _REPEATS = 10, 5

    def __init__(self) -> None:
        self._steps: deque[tuple[tuple[str, str, str | None], ...]] = deque(maxlen=self._WINDOW)

    def observe(self, turn: AgentTurn) -> Level:
        """Steps without calls are in the window but never counted."""
        signature = tuple((call.name, call.arguments, call.result) for call in turn.calls)
        self._steps.append(signature)
        return Level.stop if signature and self._steps.count(signature) > self._REPEATS else Level.none


# librefang, loops.md section 1: what makes a call a poll, whose thresholds are three times as high.
_POLL_WORDS = ("status", "poll", "wait")
_POLL_COMMANDS = ("watch", "tail", "ps ", "jobs", "pgrep", "kubectl get")
_POLL_COMMAND_CHARS = 50


class Librefang(TurnRule):
    """librefang, loops.md section 1.

    The same call warns at 3 and blocks at 5; the same call with the same result warns at 2, and after 3 the next such
    call is blocked; ping-pong of two or three calls blocks at 3. A warning is appended to the tool's result: a nudge.
    Its limit of 30 calls in total is a cap, not a loop rule, and left out (see cap_25), as in section 5.
    """

    _WINDOW = 30

    def __init__(self) -> None:
        self._calls: Counter[tuple[str, str]] = Counter()
        self._outcomes: Counter[tuple[str, str, str]] = Counter()
        self._recent: deque[tuple[str, str]] = deque(maxlen=self._WINDOW)
        self._blocked: set[tuple[str, str]] = set()

    def observe(self, turn: AgentTurn) -> Level:
        """The highest level of the turn's calls."""
        return max((self._level(call) for call in turn.calls), default=Level.none)

    def _level(self, call: TurnCall) -> Level:
        key = (call.name, call.arguments)
        if key in self._blocked:
            return Level.stop
        self._calls[key] += 1
        self._recent.append(key)
        times = 3 if _is_poll(call) else 1
        if self._calls[key] >= 5 * times or self._is_ping_pong():
            return Level.stop
        outcomes = self._count_outcome(key, call.result) if call.result is not None else 0
        return Level.nudge if self._calls[key] >= 3 * times or outcomes >= 2 else Level.none

    def _count_outcome(self, key: tuple[str, str], result: str) -> int:
        self._outcomes[*key, result] += 1
        if self._outcomes[*key, result] >= 3:
            self._blocked.add(key)
        return self._outcomes[*key, result]

    def _is_ping_pong(self) -> bool:
        recent = list(self._recent)
        return any(
            len(recent) >= 3 * period
            and recent[-3 * period :] == recent[-period:] * 3
            and len(set(recent[-period:])) > 1
            for period in (2, 3)
        )


def _is_poll(call: TurnCall) -> bool:
    text = call.arguments.lower()
    short = len(text) < _POLL_COMMAND_CHARS and any(word in text for word in _POLL_COMMANDS)
    return short or any(word in text for word in _POLL_WORDS)


class MessageHash(TurnRule):
    """R3 of loops.md section 5 (workweave/router (c) in section 1).

    The same message three times in the last twelve. A message is its text, in lower case and single spaces, with its
    calls; one without calls counts from 40 characters.
    """

    _WINDOW, _REPEATS, _MIN_CHARS = 12, 3, 40

    def __init__(self) -> None:
        self._messages: deque[object] = deque(maxlen=self._WINDOW)

    def observe(self, turn: AgentTurn) -> Level:
        """Short remarks are in the window but never counted."""
        text = " ".join(turn.text.lower().split())
        message = (text, *((call.name, call.arguments) for call in turn.calls))
        counted = bool(turn.calls) or len(text) >= self._MIN_CHARS
        self._messages.append(message if counted else None)
        return Level.stop if counted and self._messages.count(message) >= self._REPEATS else Level.none


class ConsecutiveCalls(TurnRule):
    """The same call `times` times in a row, whatever its results.

    loops.md section 1, Roo and Cline (`roo_cline`: the fourth is refused) and opencode (`opencode`: three, there within
    one assistant message).
    """

    def __init__(self, times: int) -> None:
        self._repeats = times
        self._last_call: tuple[str, str] | None = None
        self._run = 0

    def observe(self, turn: AgentTurn) -> Level:
        """Stop if a run reached the limit within this turn."""
        reached = False
        for call in turn.calls:
            key = (call.name, call.arguments)
            self._run = self._run + 1 if key == self._last_call else 1
            self._last_call = key
            reached = reached or self._run >= self._repeats
        return Level.stop if reached else Level.none


class CallCap(TurnRule):
    """A cap of `calls` calls, loops.md section 5 (cap 25, cap 50)."""

    def __init__(self, calls: int) -> None:
        self._calls_left = calls

    def observe(self, turn: AgentTurn) -> Level:
        """Count one call."""
        self._calls_left -= 1
        return Level.stop if self._calls_left <= 0 else Level.none
