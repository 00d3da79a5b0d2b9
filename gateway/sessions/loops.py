"""The loop guard: a ledger of what is new in a conversation, and a score that grows when nothing is. A book.

Every turn of the agent is weighed: what it did before with the same outcome adds to the score, the more the oftener and
the more exactly it repeats itself; what is new takes 1 off, the floor is 0. So long healthy work does not accumulate,
and a circle of any length does. A new turn of the user's starts afresh. Time between polls counts in their favour.
Costs what the new messages cost to read; keeps digests only, bounded.

Weights and levels are set on recorded sessions (`penstock eval loops`, docs/loops.md says on which).
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from ..values.request import Message, Request
from . import steps
from .steps import Call, Step, Turn, text_of

# Records remembered of one conversation, five for a step: about a hundred steps; the oldest are forgotten.
RECORDS_MAX = 500
# Of a history that was never seen before (after a restart), only the newest messages are read, and what they add is
# bounded: how much time passed between its turns is not known, so they may all have been polls.
FIRST_LOOK, FIRST_SCORE_MAX = 64, 3.5
SCORE_MAX = 20.0
# Words of the agent, one after the other, that are looked at for near duplicates.
_SAID_MAX = 12
_SAME_WORDS = 0.6
# How far back the end of what was read is looked for in a history that was rewritten.
_LOOK_BACK = 64

# What a turn adds. A step whose call brought the same result before: the second time may be an oversight, unless it
# follows on the same step as before; in a circle of several steps it is none, nor where it fails every time.
_AGAIN_FIRST, _AGAIN, _CIRCLING, _FAILING = 0.5, 1.0, 1.4, 1.25
# An agent that says something else beside it each time still thinks; one that said the very same before thinks less,
# and one that says nothing else for some turns in a row stands still for good. Less than so many characters say nothing.
_AGAIN_THINKING, _AGAIN_SAYING, _FROZEN, _FROZEN_FROM = 0.73, 0.85, 1.25, 5
# The same call with another result (a poll, a page: no more than a warning comes of it), and where that is a failure; another call with a failure that was seen before, and
# from the fourth time on.
_STALE, _STALE_MAX, _STALE_FAILED = 0.3, 3.0, 0.6
_SAME_FAILURE, _SAME_FAILURE_OFTEN, _OFTEN = 0.6, 1.0, 4
_NEW = -0.7
# The user's turn says what it said before (an auto-reply), and the agent makes no call: where both repeat themselves,
# or the reply is longer than what people say to let an agent go on, and otherwise.
_ECHO, _AUTO_REPLY, _GO_ON, _GO_ON_CHARS = 1.25, 1.0, 0.6, 24
_SAME_TALK = 0.6
# The very same request once more, after it was answered: in the middle of a conversation, and at its opening, which
# batch work sends many times.
_RESENT, _RESENT_OPENING = 1.0, 0.25
# A sub-agent is started with what an earlier one was started with, after that one was answered.
_SPAWNED_AGAIN = 0.5
# Longer than this between two of the same request is no storm of them (seconds).
_STORM_SECONDS = 600.0
# A client that waits at least so long before it asks again is polling (seconds); a poll adds this at most.
POLL_SECONDS, _POLL = 20.0, 0.25

# 8 bytes of a digest, one of how often, three of the pauses.
_WIDTH, _COUNT_MAX, _PAUSES_MAX = 12, 255, 2**24 - 1


class _Seen(NamedTuple):
    """How often something happened before, and how often its client had paused by the last time."""

    times: int = 0
    pauses: int = 0


_NEVER = _Seen()


class Conversation(msgspec.Struct, gc=False):
    """What is known of one conversation.

    `read` messages were read, the newest with the digest `tail`; `read_at` and `answered_at` are when (seconds).
    `pauses` is how
    often the client waited before its next request, as one that polls. `records` holds 12 bytes for each thing that
    happened. `since_*` say when the score
    last left 0: at which turn, time, and charge of the session. `tool` and `count` are what was repeated most lately,
    `frozen` how often in a row the very same turn came. `pending` are the calls of an answer whose results will come
    without it.
    """

    read: int = 0
    tail: int = 0
    turns: int = 0
    score: float = 0.0
    read_at: float = 0.0
    answered_at: float = 0.0
    pauses: int = 0
    records: bytearray = bytearray()
    said: tuple[int, ...] = ()
    last_turn: int = 0
    last_done: int = 0
    frozen: int = 0
    tooled: bool = False
    tool: str = ""
    count: int = 0
    since_turn: int = 0
    since_at: float = 0.0
    since_nusd: int = 0
    pending: tuple[Call, ...] = ()


def read(talk: Conversation, request: Request, *, now: float, charge_nusd: int = 0) -> bool:
    """Read what is new in the request's history and move the score; True if the user said something new.

    `charge_nusd` is what the session was charged so far, for the evidence.
    """
    messages, first = request.messages, talk.read == 0
    idle = 0.0 if first else max(0.0, now - max(talk.read_at, talk.answered_at))
    talk.pauses += idle >= POLL_SECONDS
    start, spoken = _unread(talk, messages), False
    if start < len(messages):
        talk.tooled = talk.tooled or bool(request.tool_names) or any(one.role == "tool" for one in messages[start:])
        for turn in steps.turns_of(messages, start, tooled=talk.tooled, pending=talk.pending):
            change, said = _weighed(talk, turn)
            _move(talk, 0.0 if said else max(0.0, talk.score + change), now, charge_nusd)
            spoken = spoken or said
        if first:
            talk.score = min(talk.score, FIRST_SCORE_MAX)
    elif talk.answered_at >= talk.read_at and not first:
        _resent(talk, messages, idle, now, charge_nusd)
    talk.read, talk.tail, talk.read_at, talk.pending = len(messages), tail_of(messages, len(messages)), now, ()
    return spoken


def spawned(talk: Conversation, opening: int, *, now: float, charge_nusd: int = 0) -> None:
    """A sub-agent was started with this opening: the ledger of its root's sub-agents."""
    before = _happened(talk, _key("spawn", opening)).times
    if before and talk.answered_at >= talk.read_at:
        talk.tool, talk.count = "sub-agent", before + 1
        _move(talk, talk.score + _SPAWNED_AGAIN, now, charge_nusd)
    elif not before:
        _move(talk, max(0.0, talk.score + _NEW), now, charge_nusd)
    talk.turns, talk.read_at = talk.turns + 1, now


def _resent(talk: Conversation, messages: Sequence[Message], idle: float, now: float, charge_nusd: int) -> None:
    """Nothing is new, though the request was answered."""
    opening = not any(message.role == "assistant" for message in messages)
    change = _RESENT_OPENING if opening else _RESENT
    if idle >= POLL_SECONDS:
        change = min(change, _POLL if idle < _STORM_SECONDS else 0.0)
    talk.tool, talk.count = "request", _happened(talk, _key("request", talk.tail)).times + 2
    _move(talk, talk.score + change, now, charge_nusd)


def _move(talk: Conversation, score: float, now: float, charge_nusd: int) -> None:
    if talk.score <= 0 < score:
        talk.since_turn, talk.since_at, talk.since_nusd = talk.turns, now, charge_nusd
    talk.score = min(SCORE_MAX, score)


def tail_of(messages: Sequence[Message], end: int) -> int:
    """Digest of how a history ends at `end`: of its last two messages."""
    told = []
    for message in messages[max(0, end - 2) : end]:
        wanted = message.tool_call_id
        told.append((message.role, text_of(message)[-256:], wanted if isinstance(wanted, str) else ""))
    return hash(tuple(told))


def _unread(talk: Conversation, messages: Sequence[Message]) -> int:
    """Where in the history the unread begins. A history that was rewritten (compacted, elided) is read on from where
    its known end now lies, else from its newest answer."""
    count, seen = len(messages), talk.read
    if not seen:
        return _turn_start(messages, max(0, count - FIRST_LOOK))
    if seen <= count and tail_of(messages, seen) == talk.tail:
        return seen
    if talk.pending and messages[0].role == "tool":
        # The provider keeps the conversation: every request brings only what is new.
        return 0
    for end in range(count, max(0, count - _LOOK_BACK), -1):
        if tail_of(messages, end) == talk.tail:
            return end
    return next((place for place in range(count - 1, 0, -1) if messages[place].role == "assistant"), count)


def _turn_start(messages: Sequence[Message], start: int) -> int:
    while 0 < start < len(messages) and messages[start].role == "tool":
        start -= 1
    return start


def _weighed(talk: Conversation, turn: Turn) -> tuple[float, bool]:
    """What a turn adds to the score, and whether the user said something new after it."""
    talk.turns += 1
    told_before = turn.told is not None and _happened(talk, _key("told", turn.told)).times > 0
    if not turn.steps:
        change = _talked(talk, turn, told_before)
        return change, talk.tooled and turn.told is not None and not told_before
    done = hash(tuple([(step.call, step.result) for step in turn.steps]))
    follows = _follows(talk, done)
    frozen = _froze(talk, done, turn.words)
    # Calls made side by side do not repeat one another: each is weighed before any is remembered.
    keys = [_keys(step, turn.words) for step in turn.steps]
    weights = [
        _weight(talk, step, _Found(*[_seen(talk, key) for key in each]), turn.words, follows, frozen)
        for step, each in zip(turn.steps, keys, strict=True)
    ]
    for each in keys:
        for key in each:
            _happened(talk, key)
    return sum(weights) / len(weights), talk.tooled and turn.told is not None and not told_before


def _follows(talk: Conversation, done: int) -> int:
    """0 if this turn follows on another than before, 1 if on itself, 2 if on one that it followed on before."""
    before, talk.last_done = talk.last_done, done
    if before == done:
        return 1
    return 2 if _happened(talk, _key("then", before, done)).times else 0


def _froze(talk: Conversation, done: int, words: int) -> int:
    """How often in a row the very same turn came, words and all; 0 for an agent that says nothing, of which less is known."""
    digest = hash((words, done))
    talk.frozen = talk.frozen + 1 if digest == talk.last_turn and words else 0
    talk.last_turn = digest
    return talk.frozen


class _Found(NamedTuple):
    """What happened before of what a step consists of."""

    pair: _Seen
    call: _Seen
    outcome: _Seen
    shape: _Seen
    words: _Seen


def _keys(step: Step, words: int) -> tuple[bytes, ...]:
    """Under which a step is remembered, in the order of _Found."""
    return (
        _key("pair", step.call, step.result),
        _key("call", step.call),
        _key("outcome", step.tool, step.result),
        _key("shape", step.shape),
        _key("words", step.call, words),
    )


def _weight(talk: Conversation, step: Step, found: _Found, words: int, follows: int, frozen: int) -> float:
    """What one step adds, by what of it happened before. A client that paused since then is polling."""
    again = found.pair if found.pair.times else found.call if found.call.times else found.outcome
    if again.times and (again is not found.outcome or step.negative):
        talk.tool, talk.count = step.tool, again.times + 1
    polled = again.times > 0 and talk.pauses > again.pauses
    change = _change(step, found, words, follows, frozen, talk.score)
    return min(change, _POLL) if polled else change


def _change(step: Step, found: _Found, words: int, follows: int, frozen: int, score: float) -> float:
    if found.pair.times:
        if words:
            if not found.words.times:
                return _AGAIN_THINKING
            return _FROZEN if frozen >= _FROZEN_FROM else _AGAIN_SAYING
        if follows:
            return _CIRCLING if follows == 2 else _FAILING if step.negative else _AGAIN
        return _AGAIN_FIRST if found.pair.times == 1 else _AGAIN
    if found.call.times:
        if step.negative:
            return _STALE_FAILED
        return _STALE if score < _STALE_MAX else 0.0
    if step.negative and (found.outcome.times or found.shape.times):
        return _SAME_FAILURE_OFTEN if found.outcome.times >= _OFTEN - 1 else _SAME_FAILURE
    return 0.0 if found.outcome.times else _NEW


def _talked(talk: Conversation, turn: Turn, told_before: bool) -> float:
    """What a turn without calls adds."""
    if turn.told is None or not turn.spoke:
        return 0.0
    near = bool(turn.said) and any(
        (turn.said & one).bit_count() >= _SAME_WORDS * (turn.said | one).bit_count() for one in talk.said
    )
    if turn.said:
        talk.said = (*talk.said[1 - _SAID_MAX :], turn.said)
    if told_before:
        talk.tool, talk.count = "reply", max(2, talk.count + 1 if talk.tool == "reply" else 2)
        if near:
            return _ECHO
        return _AUTO_REPLY if turn.told_chars >= _GO_ON_CHARS else _GO_ON
    if near:
        return _SAME_TALK
    return 0.0 if talk.tooled else _NEW


def _key(*what: object) -> bytes:
    return hash(what).to_bytes(8, "little", signed=True)


def _place(records: bytearray, key: bytes) -> int:
    place = records.find(key)
    while place > 0 and place % _WIDTH:
        place = records.find(key, place + 1)
    return place


def _seen(talk: Conversation, key: bytes) -> _Seen:
    records, place = talk.records, _place(talk.records, key)
    if place < 0:
        return _NEVER
    return _Seen(records[place + 8], int.from_bytes(records[place + 9 : place + 12], "little"))


def _happened(talk: Conversation, key: bytes) -> _Seen:
    """What was known of this; remembers that it happened once more."""
    before, stamp = _seen(talk, key), min(_PAUSES_MAX, talk.pauses).to_bytes(3, "little")
    records = talk.records
    if before.times:
        place = _place(records, key)
        records[place + 8 : place + 12] = bytes((min(_COUNT_MAX, before.times + 1),)) + stamp
        return before
    if not records:
        talk.records = records = bytearray()
    records += key + b"\x01" + stamp
    if len(records) > RECORDS_MAX * _WIDTH:
        del records[:_WIDTH]
    return before
