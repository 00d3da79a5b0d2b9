"""The loop ladder: steps by score, stopping and resuming a session. Pure.

Each step is taken once per session, the lowest first, one per request.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from ..values.base import Value
from ..values.plan import Refusal
from ..values.request import Message, Request
from ..values.session import LADDER_STEPS, LoopThresholds, SessionStop
from ..values.units import NUSD_PER_USD, message_number, plain_decimal
from . import loop_guard, turn_digests
from .conversation_memory import OccurrenceKind
from .lineage import digest_texts
from .loop_guard import SCORE_MAX, Conversation
from .session_index import Session
from .turn_digests import STOP_MESSAGE_PREFIX, message_ends, message_text

# Conversations kept per session (sub-agents, titles); the least recently used is dropped.
CONVERSATIONS_MAX = 16
# Seconds without a request after which a stop is lifted.
STOP_EXPIRES_SECONDS = 900.0
# Key of the conversation that counts the sub-agents which a session starts.
_SPAWNS_KEY = 0
_LOOK_BACK_MESSAGES, _CONTINUED_MESSAGES_MIN = 16, 3
_HOLDOUT_PARTS = 10_000


class LoopState(Value, frozen=True, kw_only=True):
    """The loop guard's result for one request.

    conversation: the request's conversation.
    repeating: the conversation with the higher score: the request's own, or that of its session's sub-agents.
    score: loop score of `repeating`, in [0, SCORE_MAX].
    step: ladder step reached, "" for none.
    step_is_due: the step is taken with this request.
    is_enforced: the step is acted on, not only observed.
    has_new_user_input: the user's turn says something new.
    """

    conversation: Conversation
    repeating: Conversation
    score: float = 0.0
    step: str = ""
    step_is_due: bool = False
    is_enforced: bool = False
    has_new_user_input: bool = False

    @property
    def stops_session(self) -> bool:
        """Whether this request stops the session or holds it for approval."""
        return self.step_is_due and self.is_enforced and self.step in ("hold", "stop")


def observe(session: Session, request: Request, *, now: float, conversation: Conversation | None = None) -> LoopState:
    """Read the new messages of the request's conversation and score them.

    `conversation`: that of the answer which the request continues, where the provider keeps it.
    """
    delta = conversation is not None
    if conversation is None:
        conversation = _find_conversation(session, request.messages)
    has_new_input = loop_guard.read_messages(
        conversation, request, now=now, charge_nusd=session.charge_nusd, delta=delta
    )
    if session.stop is not None and len(request.messages) < _CONTINUED_MESSAGES_MIN:
        # A new conversation with a task that the session was not given yet counts as new user input.
        has_new_input = has_new_input or _task_is_new(session, conversation, request.messages)
    spawns = session.conversations_by_key.get(_SPAWNS_KEY)
    repeating = spawns if spawns is not None and spawns.score > conversation.score else conversation
    return LoopState(
        conversation=conversation, repeating=repeating, score=repeating.score, has_new_user_input=has_new_input
    )


def no_loop_state() -> LoopState:
    """The state of a request that has no conversation."""
    conversation = loop_guard.new_conversation()
    return LoopState(conversation=conversation, repeating=conversation)


def record_spawn(head: Session, request: Request, *, now: float) -> None:
    """Record that a sub-agent of `head` starts with this request."""
    conversation = head.conversations_by_key.get(_SPAWNS_KEY)
    if conversation is None:
        head.conversations_by_key[_SPAWNS_KEY] = conversation = loop_guard.new_conversation()
    loop_guard.record_spawn(conversation, _opening_digest(request.messages), now=now, charge_nusd=head.charge_nusd)


def record_sub_agent_answer(head: Session, *, now: float) -> None:
    """Record that a sub-agent of `head` was answered."""
    conversation = head.conversations_by_key.get(_SPAWNS_KEY)
    if conversation is not None:
        conversation.answered_at = now


def take_due_step(session: Session, loop_state: LoopState, limits: LoopThresholds) -> LoopState:
    """Take the lowest reached step that was not taken; else only warn."""
    if session.is_exempt or not loop_state.score:
        return loop_state
    enforced = limits.enforce and not in_holdout(session, limits.holdout)
    steps_done = session.steps_taken if enforced else session.steps_observed
    reached = [step for step in LADDER_STEPS if (limits.threshold_of(step) or SCORE_MAX + 1) <= loop_state.score]
    due = next((step for step in reached if step not in steps_done), "")
    if not due:
        # An observed-only step stays reported while its score lasts; an enforced one is over, except the warning.
        remaining = [step for step in reached if not enforced or step == LADDER_STEPS[0]]
        return structs.replace(loop_state, step=remaining[-1] if remaining else "")
    if enforced:
        session.steps_taken = steps_done | {due}
    else:
        session.steps_observed = steps_done | {due}
    return structs.replace(loop_state, step=due, step_is_due=True, is_enforced=enforced)


def in_holdout(session: Session, share: float) -> bool:
    """Whether the session is in the observed-only holdout; the same in every process."""
    return share > 0 and digest_texts("holdout", session.id) % _HOLDOUT_PARTS < share * _HOLDOUT_PARTS


def stop_session(session: Session, loop_state: LoopState, *, id: str, at: float) -> SessionStop:
    """Stop the session, or hold it for approval; the stop carries the evidence."""
    held = loop_state.step == "hold"
    details = evidence(session, loop_state.repeating, loop_state.score, at)
    finding = (
        f"'{details['tool']}' had the same outcome {message_number(details['count'])} times"
        if details["tool"]
        else "no new results"
    )
    message = (
        f"{STOP_MESSAGE_PREFIX}: {finding} in {message_number(details['turns'])} turns (score {loop_state.score:.2f}), at a cost of "
        f"{plain_decimal(details['cost_usd'])} USD since the repetition began. "
        + ("A person has to approve resuming it." if held else "Try another approach in a new session, "
           "or report that you are blocked; an operator can resume this one.")
    )  # fmt: skip
    session.was_stopped = True
    session.stop = SessionStop(
        id=id,
        stopped_at=at,
        code="loop_approval_required" if held else "loop_stopped",
        message=message,
        details={"session": session.id, **details},
    )
    return session.stop


def evidence(session: Session, conversation: Conversation, score: float, at: float) -> dict[str, Any]:
    """What repeats, how often, since when and its cost in USD; no prompt text."""
    return {
        "score": round(score, 2),
        "tool": conversation.repeated_tool,
        "count": conversation.repeat_count,
        "turns": conversation.turn_count - conversation.since_turn,
        "since_turn": conversation.since_turn,
        "since_seconds": round(max(0.0, at - conversation.since_at)) if conversation.since_at else 0,
        "cost_usd": round(max(0, session.charge_nusd - conversation.since_nusd) / NUSD_PER_USD, 9),
        "calls": session.call_count,
    }


def stop_refusal(stopped: SessionStop, link: str, status: int | None) -> Refusal:
    """The refusal for a stopped session; `link` ("" for none) resumes it."""
    details: Mapping[str, Any] = {**stopped.details, "resume": link} if link else stopped.details
    message = f"{stopped.message} To resume it: {link}" if link else stopped.message
    return Refusal(code=stopped.code, message=message, details=details, status=status)


def lift_if_over(session: Session, loop_state: LoopState, *, now: float) -> bool:
    """Lift a stop after new user input or a pause; whether the session may run."""
    stopped = session.stop
    if stopped is None:
        return True
    if stopped.code == "session_killed":
        return False
    if loop_state.has_new_user_input or now - session.refused_at > STOP_EXPIRES_SECONDS:
        resume_session(session, note="")
        return True
    return False


def resume_session(session: Session, *, note: str) -> None:
    """Resume the session with its scores at 0; the model receives `note`."""
    session.stop = None
    session.steps_taken = session.steps_taken - {"hold", "stop", "answer"}
    session.resume_note, session.refusals_since_stop = note, 0
    session.resume_count += 1
    for conversation in session.conversations_by_key.values():
        loop_guard.reset_conversation(conversation)


def kill_session(session: Session, *, id: str, at: float, note: str) -> SessionStop:
    """Stop the session for good."""
    session.stop = SessionStop(
        id=id, stopped_at=at, code="session_killed", message=f"Session ended by an operator{': ' + note if note else ''}.",
        details={"session": session.id, "calls": session.call_count},
    )  # fmt: skip
    return session.stop


def nudge_text(conversation: Conversation) -> str:
    """The one-time note that is appended to the newest result or user turn."""
    finding = (
        f"`{conversation.repeated_tool}` has now had the same outcome {conversation.repeat_count} times"
        if conversation.repeated_tool
        else "the last steps changed nothing"
    )
    return f"[Gateway note: {finding}. Doing it again will not change that: change your approach, or say that you are blocked and why.]"


FINAL_ANSWER_NOTE = "[Gateway note: tools are no longer available in this run. Answer now with what you have, and say what is left undone.]"


def _find_conversation(session: Session, messages: Sequence[Message]) -> Conversation:
    """The conversation that the history continues, or a new one.

    That is the one of which most was read, else one whose end or newest answer is in the history. An equal opening
    alone does not match, because many agents are given the same task.
    """
    conversations = session.conversations_by_key
    matching = [
        (conversation.messages_read, key)
        for key, conversation in conversations.items()
        if 0 < conversation.messages_read <= len(messages)
        and loop_guard.tail_digest(messages, conversation.messages_read) == conversation.tail_digest
    ]
    chosen = max(matching)[1] if matching else _find_rewritten_conversation(conversations, messages)
    found = conversations.pop(chosen) if chosen is not None else loop_guard.new_conversation()
    if not conversations:
        session.conversations_by_key = conversations = {}
    if chosen is None:
        session.conversation_count += 1
        chosen = session.conversation_count
    conversations[chosen] = found
    if len(conversations) > CONVERSATIONS_MAX:
        del conversations[next(key for key in conversations if key != _SPAWNS_KEY)]
    return found


def provider_conversation(session: Session, name: str) -> Conversation:
    """The conversation that the provider stores under this name."""
    key = hash(("conversation", name))
    conversation = session.conversations_by_key.get(key)
    if conversation is None:
        if not session.conversations_by_key:
            session.conversations_by_key = {}
        conversation = session.conversations_by_key[key] = loop_guard.new_conversation()
    return conversation


def _task_is_new(session: Session, conversation: Conversation, messages: Sequence[Message]) -> bool:
    digest = turn_digests.user_text_digest(message_text(messages[-1]))
    return conversation.turn_count == 0 and not any(
        other.has_seen(OccurrenceKind.user_message, digest)
        for other in session.conversations_by_key.values()
        if other is not conversation
    )


def _find_rewritten_conversation(conversations: Mapping[int, Conversation], messages: Sequence[Message]) -> int | None:
    """Key of the conversation that was compacted or rewritten into this history."""
    if not conversations or len(messages) < _CONTINUED_MESSAGES_MIN:
        return None
    ends = range(len(messages), max(0, len(messages) - _LOOK_BACK_MESSAGES), -1)
    tails = {loop_guard.tail_digest(messages, end) for end in ends}
    answers = {loop_guard.answer_digest(messages[end - 1]) for end in ends if messages[end - 1].role == "assistant"}
    matching = [
        key
        for key, conversation in conversations.items()
        if key != _SPAWNS_KEY
        and (
            (conversation.messages_read > 1 and conversation.tail_digest in tails)
            or (conversation.answer_digest and conversation.answer_digest in answers)
        )
    ]
    return matching[-1] if matching else None


def _opening_digest(messages: Sequence[Message]) -> int:
    first = next((message for message in messages if message.role == "user"), messages[0])
    return hash(message_ends(first))
