"""What is done about a loop: which step of the ladder a request is on, and how a session is stopped and let go again.

Each step is taken once for a session, the lowest first, one a request. Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..values.base import Value
from ..values.plan import Refusal
from ..values.request import Message, Request
from ..values.session import STEPS, LoopLimits, Stop
from ..values.units import nusd_to_usd, told
from . import lineage, loops
from .identity import Session
from .lineage import digest_of
from .loops import SCORE_MAX, Conversation

# Conversations of one session (sub-agents, titles) that are known apart; the least recently used is forgotten.
CONVERSATIONS_MAX = 16
# A stop is lifted after so long without a request (seconds).
STOP_SECONDS = 900.0
# The sub-agents that a session starts have a ledger of their own, under no opening.
_SPAWNS = 0
_LOOK_BACK = 16
_HOLDOUT_PARTS = 10_000


class Standing(Value, frozen=True, kw_only=True):
    """Where a request stands: its conversation, the score, its step ("" for none), whether that is taken now (`due`)
    and acted on, and whether the user said something new."""

    talk: Conversation
    score: float = 0.0
    step: str = ""
    due: bool = False
    acts: bool = False
    spoken: bool = False


def observe(session: Session, request: Request, *, now: float, talk: Conversation | None = None) -> Standing:
    """Read what is new in the request's conversation. `talk` is that of the answer which it continues, where known."""
    if talk is None:
        talk = _conversation(session, request.messages)
    spoken = loops.read(talk, request, now=now, charge_nusd=session.charge_nusd)
    spawns = session.talks.get(_SPAWNS)
    return Standing(talk=talk, score=max(talk.score, spawns.score if spawns is not None else 0.0), spoken=spoken)


def spawned(head: Session, request: Request, *, now: float) -> None:
    """A session of `head`'s tree begins with this request."""
    talk = head.talks.get(_SPAWNS)
    if talk is None:
        head.talks[_SPAWNS] = talk = loops.begun()
    loops.spawned(talk, _opening(request.messages), now=now, charge_nusd=head.charge_nusd)


def standing(session: Session, seen: Standing, limits: LoopLimits) -> Standing:
    """The step that is due: the lowest that was not taken yet, else the warning that stays. Takes it."""
    if session.exempt or not seen.score:
        return seen
    due = ""
    for step in STEPS:
        score = limits.at(step)
        if score is not None and seen.score >= score and (step not in session.taken):
            due = step
            break
    acts = limits.enforce and not held_out(session, limits.holdout)
    if not due:
        # What was only observed is told of for as long as it lasts; what was done is over, but for the warning.
        shown = [step for step in (STEPS[:1] if acts else STEPS) if (limits.at(step) or SCORE_MAX + 1) <= seen.score]
        return Standing(talk=seen.talk, score=seen.score, step=shown[-1] if shown else "", spoken=seen.spoken)
    session.taken = session.taken | {due}
    return Standing(talk=seen.talk, score=seen.score, step=due, due=True, acts=acts, spoken=seen.spoken)


def held_out(session: Session, share: float) -> bool:
    """Whether the session is one of those that are only observed; the same answer in every process."""
    return share > 0 and digest_of("holdout", session.id) % _HOLDOUT_PARTS < share * _HOLDOUT_PARTS


def stop(session: Session, seen: Standing, *, id: str, at: float) -> Stop:
    """Stop the session, or hold it for a human; with the evidence."""
    held = seen.step == "hold"
    facts = evidence(session, seen.talk if seen.talk.score >= seen.score else session.talks[_SPAWNS], seen.score, at)
    what = (
        f"'{facts['tool']}' came out the same {told(facts['count'])} times" if facts["tool"] else "nothing new happened"
    )
    message = (
        f"This session repeats itself: {what} in {told(facts['turns'])} turns (score {seen.score:.2f}), at a cost of "
        f"{facts['cost_usd']} USD since it began. "
        + ("It waits for a person to approve that it goes on." if held else "Try another approach in a new session, "
           "or report that you are blocked; an operator can let this one go on.")
    )  # fmt: skip
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
        "cost_usd": nusd_to_usd(max(0, session.charge_nusd - talk.since_nusd)),
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
    session.note = note
    session.resumes += 1
    for talk in session.talks.values():
        talk.score = 0.0


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
    """The conversation that the history belongs to: known by its opening, or, when that was rewritten, by its end."""
    opening = _opening(messages)
    talks = session.talks
    talk = talks.pop(opening, None)
    if talk is None and len(talks) > (_SPAWNS in talks):
        tails = {loops.tail_of(messages, end) for end in range(len(messages), max(0, len(messages) - _LOOK_BACK), -1)}
        known = next((key for key, one in talks.items() if one.tail in tails and one.read > 1), None)
        talk = talks.pop(known) if known is not None else None
    if talk is None:
        talk = loops.begun()
        if not talks:
            session.talks = talks = {}
    talks[opening] = talk
    if len(talks) > CONVERSATIONS_MAX:
        del talks[next(key for key in talks if key != _SPAWNS)]
    return talk


def _opening(messages: Sequence[Message]) -> int:
    first = next((message for message in messages if message.role == "user"), messages[0])
    return hash(lineage.text_ends(first))
