"""The loop guard: a ledger of what is new in a conversation, and a score that grows when nothing is. A book.

Every turn of the agent is weighed: what it did before with the same outcome adds to the score, the more the oftener and
the more exactly it repeats itself; what is new takes some off, the floor is 0. So long healthy work does not accumulate,
and a circle of any length does. A new turn of the user's starts afresh. Waiting between polls counts in their favour,
and so does what was tried between two looks at the same thing.
Costs what the new messages cost to read; keeps digests only, bounded.

Weights and levels are set on recorded sessions (`penstock eval loops`, docs/sessions.md says on which).
"""

from collections.abc import Sequence
from enum import Enum

import msgspec

from ..values.request import Message, Request
from . import turn_digests
from .conversation_memory import Kind, Memory, Seen
from .turn_digests import Call, Step, Turn, text_ends, text_of

# Of a history that was never seen before (after a restart), only the newest messages are read, and what they add is
# bounded: how much time passed between its turns is not known, so they may all have been polls.
FIRST_LOOK, FIRST_SCORE_MAX = 40, 3.5
SCORE_MAX = 20.0
# A system prompt and a question: shorter histories hold no turn of the agent's.
_OPENING = 3
# Words of the agent, one after the other, that are looked at for near duplicates.
_SAID_MAX, _TOLD_MAX = 12, 4
_SAME_WORDS = 0.6
# How far back the end of what was read is looked for in a history that was rewritten.
LOOK_BACK = 64

# What a turn adds. A step whose call brought the same result before: the second time may be an oversight, unless it
# follows on the same step as before; in a circle of several steps it is none, nor where it fails every time.
_AGAIN_FIRST, _AGAIN, _CIRCLING, _FAILING = 0.5, 1.0, 1.4, 1.25
# An agent that says something else beside it each time still thinks, less so in a circle; one that said the very same
# before thinks less, and one that says nothing else for some turns in a row stands still for good.
_AGAIN_THINKING, _CIRCLING_THINKING = 0.73, 1.2
_AGAIN_SAYING, _FROZEN, _FROZEN_FROM = 0.85, 1.25, 5
# The same call with another result is news (a page, a poll that gets on), unless it only fails in another way. Another
# call with a failure that was seen before is none, and from the fourth time on it is a habit.
_NEWS, _RETRIED = -0.15, 0.6
_SAME_FAILURE, _SAME_FAILURE_OFTEN, _OFTEN = 0.6, 1.0, 4
# What comes out the same after a pause of the client's, or after other things were tried, leads to no more than this.
_POLL, _CHECK, _IDLE_MAX = 0.25, 0.5, 2.0
# Another call whose result says no more than it did before ("File updated"), and one that brings something new.
_MORE, _NEW = -0.25, -0.7
# The user's turn says what it said before (an auto-reply), and the agent makes no call: where both repeat themselves,
# where the reply is longer than what people say to let an agent go on, and, of an agent with tools, otherwise.
_ECHO, _AUTO_REPLY, _GO_ON, _GO_ON_CHARS = 1.25, 1.0, 0.6, 24
# The very same request once more, after it was answered: in the middle of a conversation, and at its opening, which
# batch work sends many times: that leads to no more than a warning.
_RESENT, _RESENT_OPENING, _OPENINGS_MAX = 1.0, 0.25, 3.5
# A sub-agent is started with what an earlier one was started with, after that one was answered.
_SPAWNED_AGAIN = 0.5
# Longer than this between two of the same request is no storm of them (seconds).
_STORM_SECONDS = 600.0
# A client that waits at least so long before it asks again is polling (seconds).
POLL_SECONDS = 20.0


class Conversation(msgspec.Struct, eq=False):
    """What is known of one conversation.

    `read` messages were read, which ended in `tail`, the newest answer among them being `answer`, in a request with the
    digest `sent`; `read_at` and `answered_at` are when (seconds). `pauses` is how often the client waited before its next
    request, as one that polls (`told_pauses`: by the last auto-reply), `news` how many steps brought something new.
    `since_*` say when the score last left 0: at which turn, time, and charge of the session. `tool` and `count` are what
    was repeated most lately, `frozen` how often in a row the very same turn came. `pending` are the calls of an answer
    whose results will come without it.
    """

    memory: Memory
    read: int = 0
    tail: int = 0
    answer: int = 0
    sent: int = 0
    turns: int = 0
    score: float = 0.0
    read_at: float = 0.0
    answered_at: float = 0.0
    pauses: int = 0
    told_pauses: int = 0
    news: int = 0
    said: tuple[int, ...] = ()
    told: tuple[int, ...] = ()
    last_turn: int = 0
    last_done: int = 0
    last_asked: int = 0
    frozen: int = 0
    tooled: bool = False
    tool: str = ""
    count: int = 0
    since_turn: int = 0
    since_at: float = 0.0
    since_nusd: int = 0
    pending: tuple[Call, ...] = ()

    def knows(self, kind: Kind, *what: object) -> bool:
        """Whether this happened before."""
        return self.memory.knows(kind, hash(what))

    def happened(self, kind: Kind, *what: object) -> Seen:
        """What was known of it; remembers that it happened once more."""
        return self.memory.happened(kind, hash(what), self.pauses, self.news)


class _After(Enum):
    """What a turn comes right after: itself, the same calls with another outcome, a turn that it followed on before, or
    something else."""

    itself = 1
    same_calls = 2
    as_before = 3
    other = 4


def begun() -> Conversation:
    """A conversation of which nothing is known."""
    return Conversation(Memory())


def read(talk: Conversation, request: Request, *, now: float, charge_nusd: int = 0, delta: bool = False) -> bool:
    """Read what is new in the request's history and move the score; True if the user said something new.

    `charge_nusd` is what the session was charged so far, for the evidence. `delta`: the provider keeps the conversation,
    the request brings only what is new.
    """
    messages, first = request.messages, talk.read == 0
    if first and not delta and len(messages) < _OPENING and messages[-1].role == "user":
        _opened(talk, request, now)
        return False
    idle = 0.0 if first else max(0.0, now - max(talk.read_at, talk.answered_at))
    talk.pauses += idle >= POLL_SECONDS
    start, spoken = _instructed(messages) if delta else _unread(talk, messages), False
    if start < len(messages):
        talk.tooled = talk.tooled or bool(request.tool_names) or any(one.role == "tool" for one in messages[start:])
        for turn in turn_digests.turns_of(messages, start, tooled=talk.tooled, pending=talk.pending):
            change, said = _weighed(talk, turn)
            _move(talk, 0.0 if said else max(0.0, talk.score + change), now, charge_nusd)
            spoken = spoken or said
        if first:
            talk.score = min(talk.score, FIRST_SCORE_MAX)
    elif talk.answered_at >= talk.read_at and not first and talk.sent == _sent(request):
        _resent(talk, messages, idle, now, charge_nusd)
    talk.sent = _sent(request)
    talk.read, talk.tail, talk.read_at, talk.pending = len(messages), tail_of(messages, len(messages)), now, ()
    newest = next((message for message in reversed(messages) if message.role == "assistant"), None)
    talk.answer = answer_of(newest) if newest is not None else 0
    # Of a history that is seen for the first time nobody knows when it was said.
    return spoken and not first


def _opened(talk: Conversation, request: Request, now: float) -> None:
    """A conversation begins: nothing has happened yet that could repeat itself."""
    messages = request.messages
    talk.happened(Kind.told, turn_digests.told_of(text_of(messages[-1])))
    talk.sent = _sent(request)
    talk.read, talk.tail, talk.read_at = len(messages), tail_of(messages, len(messages)), now


def forget(talk: Conversation) -> None:
    """Begin anew: somebody has let the session go on."""
    talk.memory, talk.score, talk.count, talk.frozen, talk.said = Memory(), 0.0, 0, 0, ()


def spawned(talk: Conversation, opening: int, *, now: float, charge_nusd: int = 0) -> None:
    """A sub-agent was started with this opening: the ledger of its root's sub-agents."""
    before = talk.happened(Kind.sent, opening).times
    if before and talk.answered_at >= talk.read_at:
        talk.tool, talk.count = "sub-agent", before + 1
        _move(talk, talk.score + _SPAWNED_AGAIN, now, charge_nusd)
    elif not before:
        _move(talk, max(0.0, talk.score + _NEW), now, charge_nusd)
    talk.turns, talk.read_at = talk.turns + 1, now


def tail_of(messages: Sequence[Message], end: int) -> int:
    """Digest of how a history ends at `end`: of its last two messages."""
    told = []
    for message in messages[max(0, end - 2) : end]:
        wanted = message.tool_call_id
        told.append((message.role, text_of(message)[-256:], wanted if isinstance(wanted, str) else ""))
    return hash(tuple(told))


def _resent(talk: Conversation, messages: Sequence[Message], idle: float, now: float, charge_nusd: int) -> None:
    """Nothing is new, though the request was answered."""
    opening = not any(message.role == "assistant" for message in messages)
    change = _RESENT_OPENING if opening else _RESENT
    if idle >= POLL_SECONDS:
        change = min(change, _POLL if idle < _STORM_SECONDS and talk.score < _IDLE_MAX else 0.0)
    if opening and talk.score >= _OPENINGS_MAX:
        change = 0.0
    talk.tool, talk.count = "request", talk.happened(Kind.sent, talk.tail).times + 2
    _move(talk, talk.score + change, now, charge_nusd)


def _move(talk: Conversation, score: float, now: float, charge_nusd: int) -> None:
    if talk.score <= 0 < score:
        talk.since_turn, talk.since_at, talk.since_nusd = talk.turns, now, charge_nusd
    talk.score = min(SCORE_MAX, score)


def _sent(request: Request) -> int:
    """Digest of a request that tells it from others with the same end."""
    messages, sizes = request.messages, request.sizes
    return hash((len(sizes), sum(sizes), text_ends(messages[0]), text_of(messages[-1])))


def _instructed(messages: Sequence[Message]) -> int:
    """Where a request begins after its instructions."""
    return next(
        (at for at, message in enumerate(messages) if message.role not in ("system", "developer")), len(messages)
    )


def _unread(talk: Conversation, messages: Sequence[Message]) -> int:
    """Where in the history the unread begins. A history that was rewritten (compacted, elided) is read on from where
    its known end now lies, else from the answer after the newest known one."""
    count, seen = len(messages), talk.read
    if not seen:
        return _turn_start(messages, max(0, count - FIRST_LOOK))
    if seen <= count and tail_of(messages, seen) == talk.tail:
        return seen
    newest = count
    for end in range(count, max(0, count - LOOK_BACK), -1):
        if tail_of(messages, end) == talk.tail:
            return end
        if messages[end - 1].role == "assistant":
            if answer_of(messages[end - 1]) == talk.answer:
                return newest
            newest = end - 1
    return newest


def answer_of(message: Message) -> int:
    """Digest of an answer."""
    return hash(text_ends(message))


def _turn_start(messages: Sequence[Message], start: int) -> int:
    while 0 < start < len(messages) and messages[start].role == "tool":
        start -= 1
    return start


def _weighed(talk: Conversation, turn: Turn) -> tuple[float, bool]:
    """What a turn adds to the score, and whether the user said something new after it."""
    talk.turns += 1
    told = turn.told if talk.tooled else turn.told_exactly
    told_before = turn.told is not None and (talk.happened(Kind.told, told).times > 0 or turn.refused)
    if turn.told is not None and talk.tooled:
        # What an agent's harness says after every step differs in a few words; what people say, in most.
        told_before = _near(turn.told_words, talk.told) or told_before
        talk.told = (*talk.told[1 - _TOLD_MAX :], turn.told_words)
    new_words = talk.tooled and turn.told is not None and not told_before
    if not turn.steps:
        return _talked(talk, turn, told_before), new_words
    done = hash(tuple([(step.call, step.result) for step in turn.steps]))
    after, frozen = _after(talk, turn.steps, done), _froze(talk, done, turn.words)
    # Calls made side by side do not repeat one another.
    pairs = {(step.call, step.result): step for step in turn.steps}
    weights = [_weight(talk, step, turn.words, after, frozen) for step in pairs.values()]
    return sum(weights) / len(weights), new_words


def _after(talk: Conversation, made: Sequence[Step], done: int) -> _After:
    before, talk.last_done = talk.last_done, done
    asked, talk.last_asked = talk.last_asked, hash(tuple([step.call for step in made]))
    if before == done:
        return _After.itself
    if talk.happened(Kind.order, before, done).times:
        return _After.as_before
    return _After.same_calls if asked == talk.last_asked else _After.other


def _froze(talk: Conversation, done: int, words: int) -> int:
    """How often in a row the very same turn came, words and all; 0 for an agent that says nothing, of which less is
    known."""
    digest = hash((words, done))
    talk.frozen = talk.frozen + 1 if digest == talk.last_turn and words else 0
    talk.last_turn = digest
    return talk.frozen


def _weight(talk: Conversation, step: Step, words: int, after: _After, frozen: int) -> float:
    """What one step adds, by what of it happened before, and by what happened since then."""
    call = talk.happened(Kind.call, step.call)
    if not talk.knows(Kind.pair, step.call, step.result) and not (step.negative and call.times):
        talk.news += 1
    pair = talk.happened(Kind.pair, step.call, step.result)
    outcome = talk.happened(Kind.outcome, step.tool, step.result)
    said_so = talk.happened(Kind.words, step.call, words).times > 0 if words else False
    shaped = False if call.times else talk.happened(Kind.shape, step.shape).times > 0
    if pair.times:
        talk.tool, talk.count = step.tool, pair.times + 1
        change = _again(pair, step, words, said_so, after, frozen)
        circling = after in (_After.itself, _After.as_before)
        if talk.pauses > pair.pauses or (talk.news > pair.news and not circling):
            # A poll, or a look at how other things came out.
            limit = _POLL if talk.pauses > pair.pauses else _CHECK
            return min(change, limit) if talk.score < _IDLE_MAX else 0.0
        return change
    if call.times:
        if step.negative and after is _After.same_calls:
            talk.tool, talk.count = step.tool, call.times + 1
            return _RETRIED if talk.pauses == call.pauses else 0.0
        return _NEWS
    if step.negative and (outcome.times or shaped):
        talk.tool, talk.count = step.tool, outcome.times + 1
        return _SAME_FAILURE_OFTEN if outcome.times >= _OFTEN - 1 else _SAME_FAILURE
    return _MORE if outcome.times else _NEW


def _again(pair: Seen, step: Step, words: int, said_so: bool, after: _After, frozen: int) -> float:
    """What a step adds that had the same outcome before."""
    if words:
        if not said_so:
            return _CIRCLING_THINKING if after is _After.as_before else _AGAIN_THINKING
        return _FROZEN if frozen >= _FROZEN_FROM else _AGAIN_SAYING
    if after is _After.itself:
        return _FAILING if step.negative else _AGAIN
    if after is _After.as_before:
        return _CIRCLING
    return _AGAIN_FIRST if pair.times == 1 else _AGAIN


def _near(signature: int, others: Sequence[int]) -> bool:
    """Whether most words are those of another."""
    return bool(signature) and any(
        (signature & one).bit_count() >= _SAME_WORDS * (signature | one).bit_count() for one in others
    )


def _talked(talk: Conversation, turn: Turn, told_before: bool) -> float:
    """What a turn without calls adds."""
    if turn.told is None or not turn.spoke:
        return 0.0
    near, same = _near(turn.said, talk.said), talk.happened(Kind.words, turn.words).times > 0
    if turn.said:
        talk.said = (*talk.said[1 - _SAID_MAX :], turn.said)
    if not told_before:
        # Who is told something new may well answer in the same words.
        return 0.0 if talk.tooled else _NEW
    talk.tool, talk.count = "reply", max(2, talk.count + 1 if talk.tool == "reply" else 2)
    if turn.told_chars >= _GO_ON_CHARS:
        change = _ECHO if near else _AUTO_REPLY
    else:
        # People answer many questions with a word, and let an agent go on with one.
        change = _ECHO if same else _GO_ON if talk.tooled else 0.0
    if talk.pauses > talk.told_pauses:
        # A person takes a while.
        change = min(change, _POLL) if talk.score < _IDLE_MAX else 0.0
    talk.told_pauses = talk.pauses
    return change
