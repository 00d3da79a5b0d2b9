"""What is done about a loop: which step of the ladder a request is on, and how a session is stopped and let go again.

Each step is taken once for a session, the lowest first, one a request. Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from ..values.base import Value
from ..values.plan import Refusal
from ..values.request import Message, Request
from ..values.session import STEPS, LoopLimits, Stop
from ..values.units import NUSD_PER_USD, shortest, told
from . import loop_guard, turn_digests
from .conversation_memory import Kind
from .lineage import digest_of
from .loop_guard import SCORE_MAX, Conversation
from .session_index import Session
from .turn_digests import REFUSED, text_ends, text_of

# Conversations of one session (sub-agents, titles) that are known apart; the least recently used is forgotten.
CONVERSATIONS_MAX = 16
# A stop is lifted after so long without a request (seconds).
STOP_SECONDS = 900.0
# The sub-agents that a session starts have a ledger of their own, under no opening.
_SPAWNS = 0
_LOOK_BACK, _TOLD_MIN = 16, 3
_HOLDOUT_PARTS = 10_000


class Standing(Value, frozen=True, kw_only=True):
    """Where a request stands: its conversation, the one that repeats itself (its own, or that of its session's
    sub-agents), the score, its step ("" for none), whether that is taken now (`due`) and acted on, and whether the user
    said something new."""

    talk: Conversation
    culprit: Conversation
    score: float = 0.0
    step: str = ""
    due: bool = False
    acts: bool = False
    spoken: bool = False

    @property
    def halts(self) -> bool:
        """Whether the session is stopped, or held, with this request."""
        return self.due and self.acts and self.step in ("hold", "stop")


def observe(session: Session, request: Request, *, now: float, talk: Conversation | None = None) -> Standing:
    """Read what is new in the request's conversation. `talk` is that of the answer which it continues, where known."""
    delta = talk is not None
    if talk is None:
        talk = _conversation(session, request.messages)
    spoken = loop_guard.read(talk, request, now=now, charge_nusd=session.charge_nusd, delta=delta)
    if session.stop is not None and len(request.messages) < _TOLD_MIN:
        # A new conversation begins: with a task that the session was not given yet, somebody has turned to it anew.
        spoken = spoken or _task_is_new(session, talk, request.messages)
    spawns = session.talks.get(_SPAWNS)
    culprit = spawns if spawns is not None and spawns.score > talk.score else talk
    return Standing(talk=talk, culprit=culprit, score=culprit.score, spoken=spoken)


def unseen() -> Standing:
    """Of what is no conversation."""
    talk = loop_guard.begun()
    return Standing(talk=talk, culprit=talk)


def spawned(head: Session, request: Request, *, now: float) -> None:
    """A session of `head`'s tree begins with this request."""
    talk = head.talks.get(_SPAWNS)
    if talk is None:
        head.talks[_SPAWNS] = talk = loop_guard.begun()
    loop_guard.spawned(talk, _opening(request.messages), now=now, charge_nusd=head.charge_nusd)


def answered(head: Session, *, now: float) -> None:
    """A sub-agent of `head` was answered."""
    talk = head.talks.get(_SPAWNS)
    if talk is not None:
        talk.answered_at = now


def standing(session: Session, seen: Standing, limits: LoopLimits) -> Standing:
    """The step that is due: the lowest that was not taken yet, else the warning that stays. Takes it."""
    if session.exempt or not seen.score:
        return seen
    acts = limits.enforce and not held_out(session, limits.holdout)
    done = session.taken if acts else session.watched
    reached = [step for step in STEPS if (limits.at(step) or SCORE_MAX + 1) <= seen.score]
    due = next((step for step in reached if step not in done), "")
    if not due:
        # What was only observed is told of for as long as it lasts; what was done is over, but for the warning.
        shown = [step for step in reached if not acts or step == STEPS[0]]
        return structs.replace(seen, step=shown[-1] if shown else "")
    if acts:
        session.taken = done | {due}
    else:
        session.watched = done | {due}
    return structs.replace(seen, step=due, due=True, acts=acts)


def held_out(session: Session, share: float) -> bool:
    """Whether the session is one of those that are only observed; the same answer in every process."""
    return share > 0 and digest_of("holdout", session.id) % _HOLDOUT_PARTS < share * _HOLDOUT_PARTS


def stop(session: Session, seen: Standing, *, id: str, at: float) -> Stop:
    """Stop the session, or hold it for a human; with the evidence."""
    held = seen.step == "hold"
    facts = evidence(session, seen.culprit, seen.score, at)
    what = (
        f"'{facts['tool']}' came out the same {told(facts['count'])} times" if facts["tool"] else "nothing new happened"
    )
    message = (
        f"{REFUSED}: {what} in {told(facts['turns'])} turns (score {seen.score:.2f}), at a cost of "
        f"{shortest(facts['cost_usd'])} USD since it began. "
        + ("It waits for a person to approve that it goes on." if held else "Try another approach in a new session, "
           "or report that you are blocked; an operator can let this one go on.")
    )  # fmt: skip
    session.was_stopped = True
    session.stop = Stop(
        id=id,
        at=at,
        code="loop_held" if held else "loop_stopped",
        message=message,
        details={"session": session.id, **facts},
    )
    return session.stop


def evidence(session: Session, talk: Conversation, score: float, at: float) -> dict[str, Any]:
    """What repeats itself, how often, since when, and what it cost. No text of anybody's."""
    return {
        "score": round(score, 2),
        "tool": talk.tool,
        "count": talk.count,
        "turns": talk.turns - talk.since_turn,
        "since_turn": talk.since_turn,
        "since_seconds": round(max(0.0, at - talk.since_at)) if talk.since_at else 0,
        "cost_usd": round(max(0, session.charge_nusd - talk.since_nusd) / NUSD_PER_USD, 9),
        "calls": session.calls,
    }


def refusal(stopped: Stop, link: str, status: int | None) -> Refusal:
    """What the agent is told; `link` lets a person resume the session."""
    details: Mapping[str, Any] = {**stopped.details, "resume": link} if link else stopped.details
    message = f"{stopped.message} To let it go on: {link}" if link else stopped.message
    return Refusal(code=stopped.code, message=message, details=details, status=status)


def lifted(session: Session, seen: Standing, *, now: float) -> bool:
    """Whether a stop is over: the user said something new, or nobody asked for a while. Lifts it."""
    stopped = session.stop
    if stopped is None:
        return True
    if stopped.code == "session_killed":
        return False
    if seen.spoken or now - session.stop_seen_at > STOP_SECONDS:
        resume(session, note="")
        return True
    return False


def resume(session: Session, *, note: str) -> None:
    """Let the session go on, its scores at 0; the model will see `note`."""
    session.stop = None
    session.taken = session.taken - {"hold", "stop", "answer"}
    session.note, session.hammered = note, 0
    session.resumes += 1
    for talk in session.talks.values():
        loop_guard.forget(talk)


def kill(session: Session, *, id: str, at: float, why: str) -> Stop:
    """Never serve the session again."""
    session.stop = Stop(
        id=id, at=at, code="session_killed", message=f"This session was ended by an operator{': ' + why if why else ''}.",
        details={"session": session.id, "calls": session.calls},
    )  # fmt: skip
    return session.stop


def nudge(talk: Conversation) -> str:
    """What the model is told once, where it reads its newest result."""
    what = (
        f"`{talk.tool}` has now come out the same {talk.count} times" if talk.tool else "the last steps changed nothing"
    )
    return f"[Gateway note: {what}. Doing it again will not change that: change your approach, or say that you are blocked and why.]"


CONCLUDE = "[Gateway note: tools are not available any more in this run. Answer now with what you have, and say what is left undone.]"


def _conversation(session: Session, messages: Sequence[Message]) -> Conversation:
    """The conversation that the history goes on with: the one of which most was read here, else one whose end or newest
    answer is in it. A history that begins like another is another: many agents are given the same task."""
    talks = session.talks
    known = [
        (talk.read, key)
        for key, talk in talks.items()
        if 0 < talk.read <= len(messages) and loop_guard.tail_of(messages, talk.read) == talk.tail
    ]
    place = max(known)[1] if known else _rewritten(talks, messages)
    talk = talks.pop(place) if place is not None else loop_guard.begun()
    if not talks:
        session.talks = talks = {}
    if place is None:
        session.conversations += 1
        place = session.conversations
    talks[place] = talk
    if len(talks) > CONVERSATIONS_MAX:
        del talks[next(key for key in talks if key != _SPAWNS)]
    return talk


def conversation_of(session: Session, name: str) -> Conversation:
    """The conversation that lies with the provider under this name."""
    place = hash(("conversation", name))
    talk = session.talks.get(place)
    if talk is None:
        if not session.talks:
            session.talks = {}
        talk = session.talks[place] = loop_guard.begun()
    return talk


def _task_is_new(session: Session, talk: Conversation, messages: Sequence[Message]) -> bool:
    told = turn_digests.told_of(text_of(messages[-1]))
    return talk.turns == 0 and not any(one.knows(Kind.told, told) for one in session.talks.values() if one is not talk)


def _rewritten(talks: Mapping[int, Conversation], messages: Sequence[Message]) -> int | None:
    """Which conversation was compacted, or told differently, into this history."""
    if not talks or len(messages) < _TOLD_MIN:
        return None
    ends = range(len(messages), max(0, len(messages) - _LOOK_BACK), -1)
    tails = {loop_guard.tail_of(messages, end) for end in ends}
    answers = {loop_guard.answer_of(messages[end - 1]) for end in ends if messages[end - 1].role == "assistant"}
    found = [
        key
        for key, talk in talks.items()
        if key != _SPAWNS and ((talk.read > 1 and talk.tail in tails) or (talk.answer and talk.answer in answers))
    ]
    return found[-1] if found else None


def _opening(messages: Sequence[Message]) -> int:
    first = next((message for message in messages if message.role == "user"), messages[0])
    return hash(text_ends(first))
