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
from .conversation_memory import ConversationMemory, OccurrenceKind, Occurrences
from .turn_digests import CallDigest, StepDigest, TurnDigest, message_ends, message_text

# Of a history that was never seen before (after a restart), only the newest messages are read, and what they add is
# bounded: how much time passed between its turns is not known, so they may all have been polls.
FIRST_READ_MESSAGES, FIRST_SCORE_MAX = 40, 3.5
SCORE_MAX = 20.0
# A system prompt and a question: shorter histories hold no turn of the agent's.
_OPENING_MESSAGES = 3
# Words of the agent, one after the other, that are looked at for near duplicates.
_AGENT_SIGNATURES_MAX, _USER_SIGNATURES_MAX = 12, 4
_SAME_WORDS_SHARE = 0.6
# How far back the end of what was read is looked for in a history that was rewritten.
LOOK_BACK_MESSAGES = 64

# What a turn adds. A step whose call brought the same result before: the second time may be an oversight, unless it
# follows on the same step as before; in a circle of several steps it is none, nor where it fails every time.
_REPEAT_FIRST, _REPEAT, _CYCLE, _REPEAT_FAILED = 0.5, 1.0, 1.4, 1.25
# An agent that says something else beside it each time still thinks, less so in a circle; one that said the very same
# before thinks less, and one that says nothing else for some turns in a row stands still for good.
_REPEAT_NEW_WORDS, _CYCLE_NEW_WORDS = 0.73, 1.2
_REPEAT_SAME_WORDS, _IDENTICAL_TURNS, _IDENTICAL_TURNS_MIN = 0.85, 1.25, 5
# The same call with another result is news (a page, a poll that gets on), unless it only fails in another way. Another
# call with a failure that was seen before is none, and from the fourth time on it is a habit.
_KNOWN_CALL_NEW_RESULT, _FAILED_RETRY = -0.15, 0.6
_SAME_FAILURE, _SAME_FAILURE_FREQUENT, _FREQUENT_MIN = 0.6, 1.0, 4
# What comes out the same after a pause of the client's, or after other things were tried, leads to no more than this.
_POLL, _RECHECK, _POLL_SCORE_MAX = 0.25, 0.5, 2.0
# Another call whose result says no more than it did before ("File updated"), and one that brings something new.
_NEW_CALL_KNOWN_RESULT, _NEW_CALL_NEW_RESULT = -0.25, -0.7
# The user's turn says what it said before (an auto-reply), and the agent makes no call: where both repeat themselves,
# where the reply is longer than what people say to let an agent go on, and, of an agent with tools, otherwise.
_MUTUAL_REPEAT, _AUTO_REPLY, _SHORT_REPLY, _SHORT_REPLY_CHARS = 1.25, 1.0, 0.6, 24
# The very same request once more, after it was answered: in the middle of a conversation, and at its opening, which
# batch work sends many times: that leads to no more than a warning.
_RESENT, _RESENT_OPENING, _RESENT_OPENING_SCORE_MAX = 1.0, 0.25, 3.5
# A sub-agent is started with what an earlier one was started with, after that one was answered.
_REPEATED_SPAWN = 0.5
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

    memory: ConversationMemory
    messages_read: int = 0
    tail_digest: int = 0
    answer_digest: int = 0
    request_digest: int = 0
    turn_count: int = 0
    score: float = 0.0
    read_at: float = 0.0
    answered_at: float = 0.0
    pause_count: int = 0
    pauses_at_reply: int = 0
    new_count: int = 0
    agent_signatures: tuple[int, ...] = ()
    user_signatures: tuple[int, ...] = ()
    last_turn_digest: int = 0
    last_steps_digest: int = 0
    last_calls_digest: int = 0
    identical_turns: int = 0
    has_tools: bool = False
    repeated_tool: str = ""
    repeat_count: int = 0
    since_turn: int = 0
    since_at: float = 0.0
    since_nusd: int = 0
    pending_calls: tuple[CallDigest, ...] = ()

    def has_seen(self, kind: OccurrenceKind, *what: object) -> bool:
        """Whether this happened before."""
        return self.memory.has_seen(kind, hash(what))

    def record(self, kind: OccurrenceKind, *what: object) -> Occurrences:
        """What was known of it; remembers that it happened once more."""
        return self.memory.record(kind, hash(what), self.pause_count, self.new_count)


class _Predecessor(Enum):
    """What a turn comes right after: itself, the same calls with another outcome, a turn that it followed on before, or
    something else."""

    same_turn = 1
    same_calls_new_result = 2
    known_order = 3
    other = 4


def new_conversation() -> Conversation:
    """A conversation of which nothing is known."""
    return Conversation(ConversationMemory())


def read_messages(
    conversation: Conversation, request: Request, *, now: float, charge_nusd: int = 0, delta: bool = False
) -> bool:
    """Read what is new in the request's history and move the score; True if the user said something new.

    `charge_nusd` is what the session was charged so far, for the evidence. `delta`: the provider keeps the conversation,
    the request brings only what is new.
    """
    messages, first = request.messages, conversation.messages_read == 0
    if first and not delta and len(messages) < _OPENING_MESSAGES and messages[-1].role == "user":
        _read_opening(conversation, request, now)
        return False
    idle = 0.0 if first else max(0.0, now - max(conversation.read_at, conversation.answered_at))
    conversation.pause_count += idle >= POLL_SECONDS
    start, spoken = _instructions_end(messages) if delta else _first_unread(conversation, messages), False
    if start < len(messages):
        conversation.has_tools = (
            conversation.has_tools or bool(request.tool_names) or any(one.role == "tool" for one in messages[start:])
        )
        for turn in turn_digests.digest_turns(
            messages, start, tooled=conversation.has_tools, pending=conversation.pending_calls
        ):
            change, said = _score_turn(conversation, turn)
            _set_score(conversation, 0.0 if said else max(0.0, conversation.score + change), now, charge_nusd)
            spoken = spoken or said
        if first:
            conversation.score = min(conversation.score, FIRST_SCORE_MAX)
    elif (
        conversation.answered_at >= conversation.read_at
        and not first
        and conversation.request_digest == _request_digest(request)
    ):
        _score_resent_request(conversation, messages, idle, now, charge_nusd)
    conversation.request_digest = _request_digest(request)
    conversation.messages_read, conversation.tail_digest, conversation.read_at, conversation.pending_calls = (
        len(messages),
        tail_digest(messages, len(messages)),
        now,
        (),
    )
    newest = next((message for message in reversed(messages) if message.role == "assistant"), None)
    conversation.answer_digest = answer_digest(newest) if newest is not None else 0
    # Of a history that is seen for the first time nobody knows when it was said.
    return spoken and not first


def _read_opening(conversation: Conversation, request: Request, now: float) -> None:
    """A conversation begins: nothing has happened yet that could repeat itself."""
    messages = request.messages
    conversation.record(OccurrenceKind.user_message, turn_digests.user_text_digest(message_text(messages[-1])))
    conversation.request_digest = _request_digest(request)
    conversation.messages_read, conversation.tail_digest, conversation.read_at = (
        len(messages),
        tail_digest(messages, len(messages)),
        now,
    )


def reset_conversation(conversation: Conversation) -> None:
    """Begin anew: somebody has let the session go on."""
    (
        conversation.memory,
        conversation.score,
        conversation.repeat_count,
        conversation.identical_turns,
        conversation.agent_signatures,
    ) = (
        ConversationMemory(),
        0.0,
        0,
        0,
        (),
    )


def record_spawn(conversation: Conversation, opening: int, *, now: float, charge_nusd: int = 0) -> None:
    """A sub-agent was started with this opening: the ledger of its root's sub-agents."""
    before = conversation.record(OccurrenceKind.request, opening).seen_count
    if before and conversation.answered_at >= conversation.read_at:
        conversation.repeated_tool, conversation.repeat_count = "sub-agent", before + 1
        _set_score(conversation, conversation.score + _REPEATED_SPAWN, now, charge_nusd)
    elif not before:
        _set_score(conversation, max(0.0, conversation.score + _NEW_CALL_NEW_RESULT), now, charge_nusd)
    conversation.turn_count, conversation.read_at = conversation.turn_count + 1, now


def tail_digest(messages: Sequence[Message], end: int) -> int:
    """Digest of how a history ends at `end`: of its last two messages."""
    told = []
    for message in messages[max(0, end - 2) : end]:
        wanted = message.tool_call_id
        told.append((message.role, message_text(message)[-256:], wanted if isinstance(wanted, str) else ""))
    return hash(tuple(told))


def _score_resent_request(
    conversation: Conversation, messages: Sequence[Message], idle: float, now: float, charge_nusd: int
) -> None:
    """Nothing is new, though the request was answered."""
    opening = not any(message.role == "assistant" for message in messages)
    change = _RESENT_OPENING if opening else _RESENT
    if idle >= POLL_SECONDS:
        change = min(change, _POLL if idle < _STORM_SECONDS and conversation.score < _POLL_SCORE_MAX else 0.0)
    if opening and conversation.score >= _RESENT_OPENING_SCORE_MAX:
        change = 0.0
    conversation.repeated_tool, conversation.repeat_count = (
        "request",
        conversation.record(OccurrenceKind.request, conversation.tail_digest).seen_count + 2,
    )
    _set_score(conversation, conversation.score + change, now, charge_nusd)


def _set_score(conversation: Conversation, score: float, now: float, charge_nusd: int) -> None:
    if conversation.score <= 0 < score:
        conversation.since_turn, conversation.since_at, conversation.since_nusd = (
            conversation.turn_count,
            now,
            charge_nusd,
        )
    conversation.score = min(SCORE_MAX, score)


def _request_digest(request: Request) -> int:
    """Digest of a request that tells it from others with the same end."""
    messages, sizes = request.messages, request.sizes
    return hash((len(sizes), sum(sizes), message_ends(messages[0]), message_text(messages[-1])))


def _instructions_end(messages: Sequence[Message]) -> int:
    """Where a request begins after its instructions."""
    return next(
        (at for at, message in enumerate(messages) if message.role not in ("system", "developer")), len(messages)
    )


def _first_unread(conversation: Conversation, messages: Sequence[Message]) -> int:
    """Where in the history the unread begins. A history that was rewritten (compacted, elided) is read on from where
    its known end now lies, else from the answer after the newest known one."""
    count, seen = len(messages), conversation.messages_read
    if not seen:
        return _turn_start(messages, max(0, count - FIRST_READ_MESSAGES))
    if seen <= count and tail_digest(messages, seen) == conversation.tail_digest:
        return seen
    newest = count
    for end in range(count, max(0, count - LOOK_BACK_MESSAGES), -1):
        if tail_digest(messages, end) == conversation.tail_digest:
            return end
        if messages[end - 1].role == "assistant":
            if answer_digest(messages[end - 1]) == conversation.answer_digest:
                return newest
            newest = end - 1
    return newest


def answer_digest(message: Message) -> int:
    """Digest of an answer."""
    return hash(message_ends(message))


def _turn_start(messages: Sequence[Message], start: int) -> int:
    while 0 < start < len(messages) and messages[start].role == "tool":
        start -= 1
    return start


def _score_turn(conversation: Conversation, turn: TurnDigest) -> tuple[float, bool]:
    """What a turn adds to the score, and whether the user said something new after it."""
    conversation.turn_count += 1
    told = turn.user_digest if conversation.has_tools else turn.user_digest_exact
    told_before = turn.user_digest is not None and (
        conversation.record(OccurrenceKind.user_message, told).seen_count > 0 or turn.holds_refusal
    )
    if turn.user_digest is not None and conversation.has_tools:
        # What an agent's harness says after every step differs in a few words; what people say, in most.
        told_before = _is_near_duplicate(turn.user_signature, conversation.user_signatures) or told_before
        conversation.user_signatures = (*conversation.user_signatures[1 - _USER_SIGNATURES_MAX :], turn.user_signature)
    new_words = conversation.has_tools and turn.user_digest is not None and not told_before
    if not turn.steps:
        return _score_text_turn(conversation, turn, told_before), new_words
    done = hash(tuple([(step.call_digest, step.result_digest) for step in turn.steps]))
    after, frozen = (
        _predecessor(conversation, turn.steps, done),
        _count_identical_turns(conversation, done, turn.words_digest),
    )
    # Calls made side by side do not repeat one another.
    pairs = {(step.call_digest, step.result_digest): step for step in turn.steps}
    weights = [_score_step(conversation, step, turn.words_digest, after, frozen) for step in pairs.values()]
    return sum(weights) / len(weights), new_words


def _predecessor(conversation: Conversation, made: Sequence[StepDigest], done: int) -> _Predecessor:
    before, conversation.last_steps_digest = conversation.last_steps_digest, done
    asked, conversation.last_calls_digest = (
        conversation.last_calls_digest,
        hash(tuple([step.call_digest for step in made])),
    )
    if before == done:
        return _Predecessor.same_turn
    if conversation.record(OccurrenceKind.turn_order, before, done).seen_count:
        return _Predecessor.known_order
    return _Predecessor.same_calls_new_result if asked == conversation.last_calls_digest else _Predecessor.other


def _count_identical_turns(conversation: Conversation, done: int, words: int) -> int:
    """How often in a row the very same turn came, words and all; 0 for an agent that says nothing, of which less is
    known."""
    digest = hash((words, done))
    conversation.identical_turns = (
        conversation.identical_turns + 1 if digest == conversation.last_turn_digest and words else 0
    )
    conversation.last_turn_digest = digest
    return conversation.identical_turns


def _score_step(conversation: Conversation, step: StepDigest, words: int, after: _Predecessor, frozen: int) -> float:
    """What one step adds, by what of it happened before, and by what happened since then."""
    call = conversation.record(OccurrenceKind.call, step.call_digest)
    if not conversation.has_seen(OccurrenceKind.call_result, step.call_digest, step.result_digest) and not (
        step.failed and call.seen_count
    ):
        conversation.new_count += 1
    pair = conversation.record(OccurrenceKind.call_result, step.call_digest, step.result_digest)
    outcome = conversation.record(OccurrenceKind.tool_result, step.tool, step.result_digest)
    said_so = conversation.record(OccurrenceKind.call_words, step.call_digest, words).seen_count > 0 if words else False
    shaped = (
        False if call.seen_count else conversation.record(OccurrenceKind.call_shape, step.shape_digest).seen_count > 0
    )
    if pair.seen_count:
        conversation.repeated_tool, conversation.repeat_count = step.tool, pair.seen_count + 1
        change = _score_repeated_step(pair, step, words, said_so, after, frozen)
        circling = after in (_Predecessor.same_turn, _Predecessor.known_order)
        if conversation.pause_count > pair.pause_count or (conversation.new_count > pair.new_count and not circling):
            # A poll, or a look at how other things came out.
            limit = _POLL if conversation.pause_count > pair.pause_count else _RECHECK
            return min(change, limit) if conversation.score < _POLL_SCORE_MAX else 0.0
        return change
    if call.seen_count:
        if step.failed and after is _Predecessor.same_calls_new_result:
            conversation.repeated_tool, conversation.repeat_count = step.tool, call.seen_count + 1
            return _FAILED_RETRY if conversation.pause_count == call.pause_count else 0.0
        return _KNOWN_CALL_NEW_RESULT
    if step.failed and (outcome.seen_count or shaped):
        conversation.repeated_tool, conversation.repeat_count = step.tool, outcome.seen_count + 1
        return _SAME_FAILURE_FREQUENT if outcome.seen_count >= _FREQUENT_MIN - 1 else _SAME_FAILURE
    return _NEW_CALL_KNOWN_RESULT if outcome.seen_count else _NEW_CALL_NEW_RESULT


def _score_repeated_step(
    pair: Occurrences, step: StepDigest, words: int, said_so: bool, after: _Predecessor, frozen: int
) -> float:
    """What a step adds that had the same outcome before."""
    if words:
        if not said_so:
            return _CYCLE_NEW_WORDS if after is _Predecessor.known_order else _REPEAT_NEW_WORDS
        return _IDENTICAL_TURNS if frozen >= _IDENTICAL_TURNS_MIN else _REPEAT_SAME_WORDS
    if after is _Predecessor.same_turn:
        return _REPEAT_FAILED if step.failed else _REPEAT
    if after is _Predecessor.known_order:
        return _CYCLE
    return _REPEAT_FIRST if pair.seen_count == 1 else _REPEAT


def _is_near_duplicate(signature: int, others: Sequence[int]) -> bool:
    """Whether most words are those of another."""
    return bool(signature) and any(
        (signature & one).bit_count() >= _SAME_WORDS_SHARE * (signature | one).bit_count() for one in others
    )


def _score_text_turn(conversation: Conversation, turn: TurnDigest, told_before: bool) -> float:
    """What a turn without calls adds."""
    if turn.user_digest is None or not turn.has_answer:
        return 0.0
    near, same = (
        _is_near_duplicate(turn.agent_signature, conversation.agent_signatures),
        conversation.record(OccurrenceKind.call_words, turn.words_digest).seen_count > 0,
    )
    if turn.agent_signature:
        conversation.agent_signatures = (
            *conversation.agent_signatures[1 - _AGENT_SIGNATURES_MAX :],
            turn.agent_signature,
        )
    if not told_before:
        # Who is told something new may well answer in the same words.
        return 0.0 if conversation.has_tools else _NEW_CALL_NEW_RESULT
    conversation.repeated_tool, conversation.repeat_count = (
        "reply",
        max(2, conversation.repeat_count + 1 if conversation.repeated_tool == "reply" else 2),
    )
    if turn.user_chars >= _SHORT_REPLY_CHARS:
        change = _MUTUAL_REPEAT if near else _AUTO_REPLY
    else:
        # People answer many questions with a word, and let an agent go on with one.
        change = _MUTUAL_REPEAT if same else _SHORT_REPLY if conversation.has_tools else 0.0
    if conversation.pause_count > conversation.pauses_at_reply:
        # A person takes a while.
        change = min(change, _POLL) if conversation.score < _POLL_SCORE_MAX else 0.0
    conversation.pauses_at_reply = conversation.pause_count
    return change
