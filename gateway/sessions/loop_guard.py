"""The loop guard: scores a conversation by its repeated turns. State machine.

Every agent turn changes the score: a step that had the same outcome before adds to it, the more often and the more
exactly the more; a new result subtracts, down to 0. Long healthy work therefore does not accumulate, and a cycle of any
length does. New user input resets the score. Pauses between polls, and other steps between two looks at the same thing,
reduce what is added. The cost is that of reading the new messages; only bounded digests are kept.

Weights and thresholds are set on recorded sessions (`penstock eval loops`, see docs/sessions.md).
"""

from collections.abc import Sequence
from enum import Enum

import msgspec

from ..values.request import Message, Request
from . import turn_digests
from .conversation_memory import ConversationMemory, OccurrenceKind, Occurrences
from .turn_digests import CallDigest, StepDigest, TurnDigest, message_ends, message_text

# Of an unseen history (after a restart) only the newest messages are read, and their score is bounded: the time between
# its turns is unknown, so all of them may have been polls.
FIRST_READ_MESSAGES, FIRST_SCORE_MAX = 40, 3.5
SCORE_MAX = 20.0
# A system prompt and a question; shorter histories hold no agent turn.
_OPENING_MESSAGES = 3
# Recent signatures of agent and user text that are compared for near duplicates.
_AGENT_SIGNATURES_MAX, _USER_SIGNATURES_MAX = 12, 4
_SAME_WORDS_SHARE = 0.6
# Messages searched backwards for the last read position in a rewritten history.
LOOK_BACK_MESSAGES = 64

# What a turn adds. A step whose call had the same result before: the first repeat may be an oversight, unless it
# follows the same step as before; a cycle of several steps, or a repeated failure, is not an oversight.
_REPEAT_FIRST, _REPEAT, _CYCLE, _REPEAT_FAILED = 0.5, 1.0, 1.4, 1.25
# New text beside the repeated call weighs less, more so outside a cycle; the same text weighs more, and identical turns
# in a row weigh most.
_REPEAT_NEW_WORDS, _CYCLE_NEW_WORDS = 0.73, 1.2
_REPEAT_SAME_WORDS, _IDENTICAL_TURNS, _IDENTICAL_TURNS_MIN = 0.85, 1.25, 5
# The same call with another result is progress (a page, an advancing poll), unless it only fails differently. Another
# call with a known failure is not progress, and weighs more from the fourth time on.
_KNOWN_CALL_NEW_RESULT, _FAILED_RETRY = -0.15, 0.6
_SAME_FAILURE, _SAME_FAILURE_FREQUENT, _FREQUENT_MIN = 0.6, 1.0, 4
# The same result after a client pause (poll), or after other new results (recheck), raises the score only to this.
_POLL, _RECHECK, _POLL_SCORE_MAX = 0.25, 0.5, 2.0
# Another call with a known result ("File updated"), and one with a new result.
_NEW_CALL_KNOWN_RESULT, _NEW_CALL_NEW_RESULT = -0.25, -0.7
# The user's turn repeats (an auto-reply) and the agent makes no call: both repeat; the reply is longer than a person's
# usual "continue"; a shorter reply to an agent with tools.
_MUTUAL_REPEAT, _AUTO_REPLY, _SHORT_REPLY, _SHORT_REPLY_CHARS = 1.25, 1.0, 0.6, 24
# The same request again after it was answered: within a conversation, and at its opening. Batch work resends openings,
# so those lead to a warning at most.
_RESENT, _RESENT_OPENING, _RESENT_OPENING_SCORE_MAX = 1.0, 0.25, 3.5
# A sub-agent starts with the opening of an earlier one that was already answered.
_REPEATED_SPAWN = 0.5
# Identical requests further apart than this are not a storm (seconds).
_STORM_SECONDS = 600.0
# A client that waits at least this long between requests is polling (seconds).
POLL_SECONDS = 20.0


class Conversation(msgspec.Struct, eq=False):
    """The loop guard's state of one conversation.

    memory: occurrence counts.
    messages_read: messages read so far.
    tail_digest: digest of the end of what was read.
    answer_digest: digest of the newest answer read, 0 for none.
    request_digest: digest of the newest request.
    turn_count: agent turns scored.
    score: loop score, in [0, SCORE_MAX].
    read_at, answered_at: newest request and newest answer, seconds since the epoch.
    pause_count: pauses of at least POLL_SECONDS before a request.
    pauses_at_reply: `pause_count` at the newest auto-reply.
    new_count: steps with a new result.
    agent_signatures, user_signatures: word signatures of recent texts.
    last_turn_digest, last_steps_digest, last_calls_digest: digests of the newest turn with calls.
    identical_turns: identical turns in a row.
    has_tools: the conversation uses tools.
    repeated_tool, repeat_count: the newest repetition and how often it occurred.
    since_turn, since_at, since_nusd: turn, time and session charge at which the score last left 0.
    pending_calls: calls of a provider-stored answer whose results arrive without it.
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

    def has_seen(self, kind: OccurrenceKind, *parts: object) -> bool:
        """Whether this happened before."""
        return self.memory.has_seen(kind, hash(parts))

    def record(self, kind: OccurrenceKind, *parts: object) -> Occurrences:
        """Count one more occurrence; returns the earlier ones."""
        return self.memory.record(kind, hash(parts), self.pause_count, self.new_count)


class _Predecessor(Enum):
    """How a turn relates to the one before it.

    same_turn: the same calls with the same results.
    same_calls_new_result: the same calls with other results.
    known_order: a turn that it followed before.
    other: anything else.
    """

    same_turn = 1
    same_calls_new_result = 2
    known_order = 3
    other = 4


def new_conversation() -> Conversation:
    """An empty conversation."""
    return Conversation(ConversationMemory())


def read_messages(
    conversation: Conversation, request: Request, *, now: float, charge_nusd: int = 0, delta: bool = False
) -> bool:
    """Score what is new in the request's history; True on new user input.

    `charge_nusd`: the session's charge so far, kept as evidence. `delta`: the provider stores the conversation and the
    request carries only the new messages.
    """
    messages, first = request.messages, conversation.messages_read == 0
    if first and not delta and len(messages) < _OPENING_MESSAGES and messages[-1].role == "user":
        _read_opening(conversation, request, now)
        return False
    idle = 0.0 if first else max(0.0, now - max(conversation.read_at, conversation.answered_at))
    conversation.pause_count += idle >= POLL_SECONDS
    start, has_new_input = _instructions_end(messages) if delta else _first_unread(conversation, messages), False
    if start < len(messages):
        conversation.has_tools = (
            conversation.has_tools
            or bool(request.tool_names)
            or any(message.role == "tool" for message in messages[start:])
        )
        for turn in turn_digests.digest_turns(
            messages, start, tooled=conversation.has_tools, pending=conversation.pending_calls
        ):
            change, is_new_input = _score_turn(conversation, turn)
            _set_score(conversation, 0.0 if is_new_input else max(0.0, conversation.score + change), now, charge_nusd)
            has_new_input = has_new_input or is_new_input
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
    # The age of the turns in a first-seen history is unknown.
    return has_new_input and not first


def _read_opening(conversation: Conversation, request: Request, now: float) -> None:
    """Read a conversation's opening, which holds no turn to score."""
    messages = request.messages
    conversation.record(OccurrenceKind.user_message, turn_digests.user_text_digest(message_text(messages[-1])))
    conversation.request_digest = _request_digest(request)
    conversation.messages_read, conversation.tail_digest, conversation.read_at = (
        len(messages),
        tail_digest(messages, len(messages)),
        now,
    )


def reset_conversation(conversation: Conversation) -> None:
    """Reset the score and counts of a resumed session."""
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
    """Score the start of a sub-agent with this opening."""
    before = conversation.record(OccurrenceKind.request, opening).seen_count
    if before and conversation.answered_at >= conversation.read_at:
        conversation.repeated_tool, conversation.repeat_count = "sub-agent", before + 1
        _set_score(conversation, conversation.score + _REPEATED_SPAWN, now, charge_nusd)
    elif not before:
        _set_score(conversation, max(0.0, conversation.score + _NEW_CALL_NEW_RESULT), now, charge_nusd)
    conversation.turn_count, conversation.read_at = conversation.turn_count + 1, now


def tail_digest(messages: Sequence[Message], end: int) -> int:
    """Digest of the two messages before `end`."""
    parts = []
    for message in messages[max(0, end - 2) : end]:
        call_id = message.tool_call_id
        parts.append((message.role, message_text(message)[-256:], call_id if isinstance(call_id, str) else ""))
    return hash(tuple(parts))


def _score_resent_request(
    conversation: Conversation, messages: Sequence[Message], idle: float, now: float, charge_nusd: int
) -> None:
    """Score a request without new messages that was already answered."""
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
    """Digest that separates a request from others with the same end."""
    messages, sizes = request.messages, request.sizes
    return hash((len(sizes), sum(sizes), message_ends(messages[0]), message_text(messages[-1])))


def _instructions_end(messages: Sequence[Message]) -> int:
    """Index of the first message after the instructions."""
    return next(
        (at for at, message in enumerate(messages) if message.role not in ("system", "developer")), len(messages)
    )


def _first_unread(conversation: Conversation, messages: Sequence[Message]) -> int:
    """Index of the first unread message.

    A rewritten (compacted, elided) history is read from where its known end is now, else from the answer after the
    newest known one.
    """
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
    """(score change of a turn, whether the user's reply to it says something new)."""
    conversation.turn_count += 1
    digest = turn.user_digest if conversation.has_tools else turn.user_digest_exact
    is_repeated_input = turn.user_digest is not None and (
        conversation.record(OccurrenceKind.user_message, digest).seen_count > 0 or turn.holds_refusal
    )
    if turn.user_digest is not None and conversation.has_tools:
        # A harness prompt after every step differs in a few words, a person's message in most.
        is_repeated_input = _is_near_duplicate(turn.user_signature, conversation.user_signatures) or is_repeated_input
        conversation.user_signatures = (*conversation.user_signatures[1 - _USER_SIGNATURES_MAX :], turn.user_signature)
    has_new_input = conversation.has_tools and turn.user_digest is not None and not is_repeated_input
    if not turn.steps:
        return _score_text_turn(conversation, turn, is_repeated_input), has_new_input
    steps_digest = hash(tuple([(step.call_digest, step.result_digest) for step in turn.steps]))
    predecessor, identical_turns = (
        _predecessor(conversation, turn.steps, steps_digest),
        _count_identical_turns(conversation, steps_digest, turn.words_digest),
    )
    # Parallel calls do not repeat one another.
    pairs = {(step.call_digest, step.result_digest): step for step in turn.steps}
    weights = [
        _score_step(conversation, step, turn.words_digest, predecessor, identical_turns) for step in pairs.values()
    ]
    return sum(weights) / len(weights), has_new_input


def _predecessor(conversation: Conversation, steps: Sequence[StepDigest], steps_digest: int) -> _Predecessor:
    previous_steps, conversation.last_steps_digest = conversation.last_steps_digest, steps_digest
    previous_calls, conversation.last_calls_digest = (
        conversation.last_calls_digest,
        hash(tuple([step.call_digest for step in steps])),
    )
    if previous_steps == steps_digest:
        return _Predecessor.same_turn
    if conversation.record(OccurrenceKind.turn_order, previous_steps, steps_digest).seen_count:
        return _Predecessor.known_order
    return (
        _Predecessor.same_calls_new_result if previous_calls == conversation.last_calls_digest else _Predecessor.other
    )


def _count_identical_turns(conversation: Conversation, steps_digest: int, words_digest: int) -> int:
    """Identical turns in a row, text included; 0 for a turn without text."""
    digest = hash((words_digest, steps_digest))
    conversation.identical_turns = (
        conversation.identical_turns + 1 if digest == conversation.last_turn_digest and words_digest else 0
    )
    conversation.last_turn_digest = digest
    return conversation.identical_turns


def _score_step(
    conversation: Conversation, step: StepDigest, words_digest: int, predecessor: _Predecessor, identical_turns: int
) -> float:
    """Score change of one step, by its earlier occurrences and what happened since."""
    call = conversation.record(OccurrenceKind.call, step.call_digest)
    if not conversation.has_seen(OccurrenceKind.call_result, step.call_digest, step.result_digest) and not (
        step.failed and call.seen_count
    ):
        conversation.new_count += 1
    pair = conversation.record(OccurrenceKind.call_result, step.call_digest, step.result_digest)
    outcome = conversation.record(OccurrenceKind.tool_result, step.tool, step.result_digest)
    same_words = (
        conversation.record(OccurrenceKind.call_words, step.call_digest, words_digest).seen_count > 0
        if words_digest
        else False
    )
    same_shape = (
        False if call.seen_count else conversation.record(OccurrenceKind.call_shape, step.shape_digest).seen_count > 0
    )
    if pair.seen_count:
        conversation.repeated_tool, conversation.repeat_count = step.tool, pair.seen_count + 1
        change = _score_repeated_step(pair, step, words_digest, same_words, predecessor, identical_turns)
        in_cycle = predecessor in (_Predecessor.same_turn, _Predecessor.known_order)
        if conversation.pause_count > pair.pause_count or (conversation.new_count > pair.new_count and not in_cycle):
            # A poll, or a recheck after other results.
            limit = _POLL if conversation.pause_count > pair.pause_count else _RECHECK
            return min(change, limit) if conversation.score < _POLL_SCORE_MAX else 0.0
        return change
    if call.seen_count:
        if step.failed and predecessor is _Predecessor.same_calls_new_result:
            conversation.repeated_tool, conversation.repeat_count = step.tool, call.seen_count + 1
            return _FAILED_RETRY if conversation.pause_count == call.pause_count else 0.0
        return _KNOWN_CALL_NEW_RESULT
    if step.failed and (outcome.seen_count or same_shape):
        conversation.repeated_tool, conversation.repeat_count = step.tool, outcome.seen_count + 1
        return _SAME_FAILURE_FREQUENT if outcome.seen_count >= _FREQUENT_MIN - 1 else _SAME_FAILURE
    return _NEW_CALL_KNOWN_RESULT if outcome.seen_count else _NEW_CALL_NEW_RESULT


def _score_repeated_step(
    pair: Occurrences,
    step: StepDigest,
    words_digest: int,
    same_words: bool,
    predecessor: _Predecessor,
    identical_turns: int,
) -> float:
    """Score change of a step that had the same outcome before."""
    if words_digest:
        if not same_words:
            return _CYCLE_NEW_WORDS if predecessor is _Predecessor.known_order else _REPEAT_NEW_WORDS
        return _IDENTICAL_TURNS if identical_turns >= _IDENTICAL_TURNS_MIN else _REPEAT_SAME_WORDS
    if predecessor is _Predecessor.same_turn:
        return _REPEAT_FAILED if step.failed else _REPEAT
    if predecessor is _Predecessor.known_order:
        return _CYCLE
    return _REPEAT_FIRST if pair.seen_count == 1 else _REPEAT


def _is_near_duplicate(signature: int, others: Sequence[int]) -> bool:
    """Whether the signature shares most words with one of the others."""
    return bool(signature) and any(
        (signature & other).bit_count() >= _SAME_WORDS_SHARE * (signature | other).bit_count() for other in others
    )


def _score_text_turn(conversation: Conversation, turn: TurnDigest, is_repeated_input: bool) -> float:
    """Score change of a turn without calls."""
    if turn.user_digest is None or not turn.has_answer:
        return 0.0
    near_duplicate, same_words = (
        _is_near_duplicate(turn.agent_signature, conversation.agent_signatures),
        conversation.record(OccurrenceKind.call_words, turn.words_digest).seen_count > 0,
    )
    if turn.agent_signature:
        conversation.agent_signatures = (
            *conversation.agent_signatures[1 - _AGENT_SIGNATURES_MAX :],
            turn.agent_signature,
        )
    if not is_repeated_input:
        # New user input may well get an answer in the same words.
        return 0.0 if conversation.has_tools else _NEW_CALL_NEW_RESULT
    conversation.repeated_tool, conversation.repeat_count = (
        "reply",
        max(2, conversation.repeat_count + 1 if conversation.repeated_tool == "reply" else 2),
    )
    if turn.user_chars >= _SHORT_REPLY_CHARS:
        change = _MUTUAL_REPEAT if near_duplicate else _AUTO_REPLY
    else:
        # People answer many questions, and continue an agent, with one word.
        change = _MUTUAL_REPEAT if same_words else _SHORT_REPLY if conversation.has_tools else 0.0
    if conversation.pause_count > conversation.pauses_at_reply:
        # A pause suggests a person.
        change = min(change, _POLL) if conversation.score < _POLL_SCORE_MAX else 0.0
    conversation.pauses_at_reply = conversation.pause_count
    return change
