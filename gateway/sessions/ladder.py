"""What is done about a loop: which step of the ladder a request is on, and how a session is stopped and let go again.

Each step is taken once for a session, the lowest first, one a request. Pure.
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

# Conversations of one session (sub-agents, titles) that are known apart; the least recently used is forgotten.
CONVERSATIONS_MAX = 16
# A stop is lifted after so long without a request (seconds).
STOP_EXPIRES_SECONDS = 900.0
# The sub-agents that a session starts have a ledger of their own, under no opening.
_SPAWNS_KEY = 0
_LOOK_BACK_MESSAGES, _CONTINUED_MESSAGES_MIN = 16, 3
_HOLDOUT_PARTS = 10_000


class LoopState(Value, frozen=True, kw_only=True):
    """Where a request stands: its conversation, the one that repeats itself (its own, or that of its session's
    sub-agents), the score, its step ("" for none), whether that is taken now (`due`) and acted on, and whether the user
    said something new."""

    conversation: Conversation
    repeating: Conversation
    score: float = 0.0
    step: str = ""
    step_is_due: bool = False
    is_enforced: bool = False
    has_new_user_input: bool = False

    @property
    def stops_session(self) -> bool:
        """Whether the session is stopped, or held, with this request."""
        return self.step_is_due and self.is_enforced and self.step in ("hold", "stop")


def observe(session: Session, request: Request, *, now: float, conversation: Conversation | None = None) -> LoopState:
    """Read what is new in the request's conversation. `talk` is that of the answer which it continues, where known."""
    delta = conversation is not None
    if conversation is None:
        conversation = _find_conversation(session, request.messages)
    spoken = loop_guard.read_messages(conversation, request, now=now, charge_nusd=session.charge_nusd, delta=delta)
    if session.stop is not None and len(request.messages) < _CONTINUED_MESSAGES_MIN:
        # A new conversation begins: with a task that the session was not given yet, somebody has turned to it anew.
        spoken = spoken or _task_is_new(session, conversation, request.messages)
    spawns = session.conversations_by_key.get(_SPAWNS_KEY)
    culprit = spawns if spawns is not None and spawns.score > conversation.score else conversation
    return LoopState(conversation=conversation, repeating=culprit, score=culprit.score, has_new_user_input=spoken)


def no_loop_state() -> LoopState:
    """Of what is no conversation."""
    conversation = loop_guard.new_conversation()
    return LoopState(conversation=conversation, repeating=conversation)


def record_spawn(head: Session, request: Request, *, now: float) -> None:
    """A session of `head`'s tree begins with this request."""
    conversation = head.conversations_by_key.get(_SPAWNS_KEY)
    if conversation is None:
        head.conversations_by_key[_SPAWNS_KEY] = conversation = loop_guard.new_conversation()
    loop_guard.record_spawn(conversation, _opening_digest(request.messages), now=now, charge_nusd=head.charge_nusd)


def record_sub_agent_answer(head: Session, *, now: float) -> None:
    """A sub-agent of `head` was answered."""
    conversation = head.conversations_by_key.get(_SPAWNS_KEY)
    if conversation is not None:
        conversation.answered_at = now


def take_due_step(session: Session, seen: LoopState, limits: LoopThresholds) -> LoopState:
    """The step that is due: the lowest that was not taken yet, else the warning that stays. Takes it."""
    if session.is_exempt or not seen.score:
        return seen
    acts = limits.enforce and not in_holdout(session, limits.holdout)
    done = session.steps_taken if acts else session.steps_observed
    reached = [step for step in LADDER_STEPS if (limits.threshold_of(step) or SCORE_MAX + 1) <= seen.score]
    due = next((step for step in reached if step not in done), "")
    if not due:
        # What was only observed is told of for as long as it lasts; what was done is over, but for the warning.
        shown = [step for step in reached if not acts or step == LADDER_STEPS[0]]
        return structs.replace(seen, step=shown[-1] if shown else "")
    if acts:
        session.steps_taken = done | {due}
    else:
        session.steps_observed = done | {due}
    return structs.replace(seen, step=due, step_is_due=True, is_enforced=acts)


def in_holdout(session: Session, share: float) -> bool:
    """Whether the session is one of those that are only observed; the same answer in every process."""
    return share > 0 and digest_texts("holdout", session.id) % _HOLDOUT_PARTS < share * _HOLDOUT_PARTS


def stop_session(session: Session, seen: LoopState, *, id: str, at: float) -> SessionStop:
    """Stop the session, or hold it for a human; with the evidence."""
    held = seen.step == "hold"
    features = evidence(session, seen.repeating, seen.score, at)
    what = (
        f"'{features['tool']}' came out the same {message_number(features['count'])} times"
        if features["tool"]
        else "nothing new happened"
    )
    message = (
        f"{STOP_MESSAGE_PREFIX}: {what} in {message_number(features['turns'])} turns (score {seen.score:.2f}), at a cost of "
        f"{plain_decimal(features['cost_usd'])} USD since it began. "
        + ("It waits for a person to approve that it goes on." if held else "Try another approach in a new session, "
           "or report that you are blocked; an operator can let this one go on.")
    )  # fmt: skip
    session.was_stopped = True
    session.stop = SessionStop(
        id=id,
        stopped_at=at,
        code="loop_held" if held else "loop_stopped",
        message=message,
        details={"session": session.id, **features},
    )
    return session.stop


def evidence(session: Session, conversation: Conversation, score: float, at: float) -> dict[str, Any]:
    """What repeats itself, how often, since when, and what it cost. No text of anybody's."""
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
    """What the agent is told; `link` lets a person resume the session."""
    details: Mapping[str, Any] = {**stopped.details, "resume": link} if link else stopped.details
    message = f"{stopped.message} To let it go on: {link}" if link else stopped.message
    return Refusal(code=stopped.code, message=message, details=details, status=status)


def lift_if_over(session: Session, seen: LoopState, *, now: float) -> bool:
    """Whether a stop is over: the user said something new, or nobody asked for a while. Lifts it."""
    stopped = session.stop
    if stopped is None:
        return True
    if stopped.code == "session_killed":
        return False
    if seen.has_new_user_input or now - session.refused_at > STOP_EXPIRES_SECONDS:
        resume_session(session, note="")
        return True
    return False


def resume_session(session: Session, *, note: str) -> None:
    """Let the session go on, its scores at 0; the model will see `note`."""
    session.stop = None
    session.steps_taken = session.steps_taken - {"hold", "stop", "answer"}
    session.resume_note, session.refusals_since_stop = note, 0
    session.resume_count += 1
    for conversation in session.conversations_by_key.values():
        loop_guard.reset_conversation(conversation)


def kill_session(session: Session, *, id: str, at: float, why: str) -> SessionStop:
    """Never serve the session again."""
    session.stop = SessionStop(
        id=id, stopped_at=at, code="session_killed", message=f"This session was ended by an operator{': ' + why if why else ''}.",
        details={"session": session.id, "calls": session.call_count},
    )  # fmt: skip
    return session.stop


def nudge_text(conversation: Conversation) -> str:
    """What the model is told once, where it reads its newest result."""
    what = (
        f"`{conversation.repeated_tool}` has now come out the same {conversation.repeat_count} times"
        if conversation.repeated_tool
        else "the last steps changed nothing"
    )
    return f"[Gateway note: {what}. Doing it again will not change that: change your approach, or say that you are blocked and why.]"


FINAL_ANSWER_NOTE = "[Gateway note: tools are not available any more in this run. Answer now with what you have, and say what is left undone.]"


def _find_conversation(session: Session, messages: Sequence[Message]) -> Conversation:
    """The conversation that the history goes on with: the one of which most was read here, else one whose end or newest
    answer is in it. A history that begins like another is another: many agents are given the same task."""
    conversations = session.conversations_by_key
    known = [
        (conversation.messages_read, key)
        for key, conversation in conversations.items()
        if 0 < conversation.messages_read <= len(messages)
        and loop_guard.tail_digest(messages, conversation.messages_read) == conversation.tail_digest
    ]
    place = max(known)[1] if known else _find_rewritten_conversation(conversations, messages)
    talk = conversations.pop(place) if place is not None else loop_guard.new_conversation()
    if not conversations:
        session.conversations_by_key = conversations = {}
    if place is None:
        session.conversation_count += 1
        place = session.conversation_count
    conversations[place] = talk
    if len(conversations) > CONVERSATIONS_MAX:
        del conversations[next(key for key in conversations if key != _SPAWNS_KEY)]
    return talk


def provider_conversation(session: Session, name: str) -> Conversation:
    """The conversation that lies with the provider under this name."""
    place = hash(("conversation", name))
    conversation = session.conversations_by_key.get(place)
    if conversation is None:
        if not session.conversations_by_key:
            session.conversations_by_key = {}
        conversation = session.conversations_by_key[place] = loop_guard.new_conversation()
    return conversation


def _task_is_new(session: Session, conversation: Conversation, messages: Sequence[Message]) -> bool:
    told = turn_digests.user_text_digest(message_text(messages[-1]))
    return conversation.turn_count == 0 and not any(
        one.has_seen(OccurrenceKind.user_message, told)
        for one in session.conversations_by_key.values()
        if one is not conversation
    )


def _find_rewritten_conversation(conversations: Mapping[int, Conversation], messages: Sequence[Message]) -> int | None:
    """Which conversation was compacted, or told differently, into this history."""
    if not conversations or len(messages) < _CONTINUED_MESSAGES_MIN:
        return None
    ends = range(len(messages), max(0, len(messages) - _LOOK_BACK_MESSAGES), -1)
    tails = {loop_guard.tail_digest(messages, end) for end in ends}
    answers = {loop_guard.answer_digest(messages[end - 1]) for end in ends if messages[end - 1].role == "assistant"}
    found = [
        key
        for key, conversation in conversations.items()
        if key != _SPAWNS_KEY
        and (
            (conversation.messages_read > 1 and conversation.tail_digest in tails)
            or (conversation.answer_digest and conversation.answer_digest in answers)
        )
    ]
    return found[-1] if found else None


def _opening_digest(messages: Sequence[Message]) -> int:
    first = next((message for message in messages if message.role == "user"), messages[0])
    return hash(message_ends(first))
