"""The desk for sessions: what runs, what was stopped and why, and what operators do about it. Every action is audited.

Callers may look at their own sessions and set tighter caps for them; all else is the operator's.
"""

import heapq
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from ..sessions import approval_token, caps, ladder
from ..sessions.body_session_id import clean_name
from ..sessions.session_index import Session, SessionBook
from ..values.budget import Budget, SessionCaps, added
from ..values.errors import BadRequest, NotFound
from ..values.request import Caller
from ..values.session import SessionEvent
from ..values.snapshot import World, callers_of
from ..values.units import MILLIJOULES_PER_WH, NUSD_PER_USD

_NOTE_CHARS_MAX = 1000
_LISTED_MAX = 1000
LABELS = ("healthy", "loop")
# How a session may have ended, as a quality in [0, 1].
OUTCOMES: Mapping[str, float] = {"success": 1.0, "partial": 0.5, "failure": 0.0}
_UNITS_MAX, _UNIT_CHARS_MAX = 1_000_000_000, 64


class GrantMore(Protocol):
    """Allows more on one account of a budget; see Desk.grant."""

    async def __call__(self, name: str, asked: Mapping[str, Any], *, who: str) -> dict[str, Any]: ...


class SessionDesk:
    """Answers callers and operators about sessions. `fresh_id` gives ids, `happened` hears of every action, `reach`
    asks other gateways (key, organisation, session), `grant` allows more, `known` waits until other gateways can know
    what was done (and raises Overloaded)."""

    def __init__(
        self,
        world: Callable[[], World],
        sessions: SessionBook,
        happened: Callable[[SessionEvent], None],
        fresh_id: Callable[[], str],
        now: Callable[[], float],
        secret: bytes,
        reach: Callable[[str, str, str], Awaitable[None]],
        grant: GrantMore,
        known: Callable[[], Awaitable[None]],
    ) -> None:
        self.known = known
        self._reach = reach
        self._grant = grant
        self._world = world
        self._sessions = sessions
        self._happened = happened
        self._fresh_id = fresh_id
        self._now = now
        self._secret = secret

    async def reached(self, name: str, key: str | None) -> None:
        """Have a session at hand that another gateway may have served; `key` None: of any key."""
        for caller in callers_of(self._world()):
            if key in (None, caller.key):
                await self._reach(caller.key, caller.org, name)

    async def reached_by_link(self, token: str) -> None:
        """The same for the session that a link is for."""
        read = approval_token.read(self._secret, token, now=self._now())
        if read is not None:
            await self._reach(read[0], self._org(read[0]), read[1])

    def opened(self, caller: Caller, asked: Mapping[str, Any]) -> dict[str, Any]:
        """A caller starts a run and says what it may take: `id`, `parent`, `root`, `caps`; all of them optional.
        Raises BadRequest."""
        unknown = set(asked) - {"id", "parent", "root", "caps"}
        if unknown:
            raise BadRequest(
                f"'{min(unknown)[:40]}' is no field of a session; there are id, parent, root, caps.",
                param=min(unknown)[:40],
            )
        names = {field: _name(asked, field) for field in ("id", "parent", "root")}
        wanted = asked.get("caps", {})
        if not isinstance(wanted, dict):
            raise BadRequest('\'caps\' must be an object like {"usd": 2, "minutes": 20}.', param="caps")
        own = caps.asked_of(wanted)
        name = names["id"] or f"s-{self._fresh_id()}"
        session = self._sessions.named(
            caller.key, name, "opened", now=self._now(), parent=names["parent"], root=names["root"]
        )
        if wanted and caps.tighten(session, own) and session.own is not None:
            self._tell("session_caps", caller.org, caller.key, session, {"caps": caps.told_caps(session.own)})
        return self.told(caller.key, session)

    def mine(self, caller: Caller, name: str) -> dict[str, Any]:
        """One of the caller's own sessions. Raises NotFound."""
        return self.told(caller.key, self._found(caller.key, name))

    def reported(self, caller: Caller, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """How a session of the caller's ended: `outcome` (success, partial, failure), and how many `units` of work, of
        which `unit`, it did. Raises NotFound, BadRequest."""
        _only(asked, ("outcome", "units", "unit", "note"))
        session = self._found(caller.key, name)
        outcome = asked.get("outcome")
        if not isinstance(outcome, str) or outcome not in OUTCOMES:
            raise BadRequest(f"'outcome' must be one of {', '.join(OUTCOMES)}.", param="outcome")
        units = asked.get("units", 1)
        if isinstance(units, bool) or not isinstance(units, int | float) or not 0 <= units <= _UNITS_MAX:
            raise BadRequest(f"'units' must be a number from 0 to {_UNITS_MAX}.", param="units")
        unit = asked.get("unit", "")
        if not isinstance(unit, str) or len(unit) > _UNIT_CHARS_MAX:
            raise BadRequest(f"'unit' must be text of at most {_UNIT_CHARS_MAX} characters.", param="unit")
        details = {"outcome": outcome, "quality": OUTCOMES[outcome], "units": units, "unit": unit, "note": _note(asked)}
        session.units = float(units)
        self._tell("session_outcome", caller.org, caller.key, session, details)
        return {"object": "session.outcome", "session": session.id, **details}

    def rated(self, caller: Caller, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What a caller thinks of a session, or of one answer in it (`request_id`): `rating` in [0, 1], or `redone` where
        the work had to be done again. Raises NotFound, BadRequest."""
        _only(asked, ("rating", "redone", "request_id", "note"))
        session = self._found(caller.key, name)
        rating, redone = asked.get("rating"), asked.get("redone", False)
        if not isinstance(redone, bool):
            raise BadRequest("'redone' must be true or false.", param="redone")
        if rating is None and not redone:
            raise BadRequest("Give a 'rating' from 0 to 1, or 'redone': true.", param="rating")
        if rating is not None and (
            isinstance(rating, bool) or not isinstance(rating, int | float) or not 0 <= rating <= 1
        ):
            raise BadRequest("'rating' must be a number from 0 to 1.", param="rating")
        request_id = asked.get("request_id")
        if request_id is not None and (not isinstance(request_id, str) or len(request_id) > _UNIT_CHARS_MAX):
            raise BadRequest("'request_id' must be what x-penstock-request-id said.", param="request_id")
        details = {
            "rating": rating, "redone": redone, "quality": 0.0 if redone else rating, "request_id": request_id,
            "note": _note(asked),
        }  # fmt: skip
        self._tell("session_feedback", caller.org, caller.key, session, details)
        return {"object": "session.feedback", "session": session.id, **details}

    def listed(self, *, stopped: bool) -> dict[str, Any]:
        """The sessions of this gateway, newest first, at most a thousand; `stopped`: only those that are not served."""
        every = [(key, one) for key, one in self._sessions.newest() if one.stop is not None or not stopped]
        latest = heapq.nlargest(_LISTED_MAX, every, key=lambda pair: pair[1].seen_at)
        return {"object": "list", "data": [self.told(key, one) for key, one in latest], "total": len(every)}

    def shown(self, name: str, key: str | None) -> dict[str, Any]:
        """One session. Raises NotFound, or BadRequest where several keys have one of that name."""
        key, session = self._one(name, key)
        return self.told(key, session)

    async def resumed(self, name: str, key: str | None, asked: Mapping[str, Any], *, who: str) -> dict[str, Any]:
        """Let a session go on: `note` is what the model will see, `budget` what its own caps are raised by.
        Raises NotFound, BadRequest."""
        key, session = self._one(name, key)
        if session.stop is not None and session.stop.code == "session_killed":
            raise BadRequest("A session that was killed is not resumed; start a new one.")
        return await self._resume(key, session, asked, who=who)

    async def approved(self, token: str, note: str) -> dict[str, Any]:
        """Let a session go on by a signed link, with a note for the model and no more: agents are told the link, too.
        Raises NotFound for one that is forged, old, or was used."""
        key, session = self.of_link(token)
        return await self._resume(key, session, {"note": note}, who="link")

    def of_link(self, token: str) -> tuple[str, Session]:
        """The key and session that a link is for. Raises NotFound."""
        read = approval_token.read(self._secret, token, now=self._now())
        session = self._sessions.of(read[0], read[1]) if read is not None else None
        if read is None or session is None or session.stop is None or session.stop.id != read[2]:
            raise NotFound("This link is not valid any more: it works once, and for a day.", code="link_not_valid")
        return read[0], session

    def link_token(self, key: str, session: str, stop: str) -> str:
        """The token of the link for one stop."""
        return approval_token.token_of(
            self._secret, key, session, stop, until=self._now() + approval_token.LINK_SECONDS
        )

    def exempted(self, name: str, key: str | None, *, who: str) -> dict[str, Any]:
        """The loop guard leaves the session alone from now on; caps and budgets do not."""
        key, session = self._one(name, key)
        if session.stop is not None and session.stop.code == "session_killed":
            raise BadRequest("A session that was killed is not served any more; start a new one.")
        session.exempt = True
        ladder.resume(session, note="")
        self._tell("session_exempted", self._org(key), key, session, {"who": who})
        return self.told(key, session)

    def killed(self, name: str, key: str | None, asked: Mapping[str, Any], *, who: str) -> dict[str, Any]:
        """Never serve the session again."""
        key, session = self._one(name, key)
        note = _note(asked)
        ladder.kill(session, id=self._fresh_id(), at=self._now(), why=note)
        self._tell("session_killed", self._org(key), key, session, {"who": who, "note": note})
        return self.told(key, session)

    def labelled(self, name: str, key: str | None, asked: Mapping[str, Any], *, who: str) -> dict[str, Any]:
        """Say whether the session was a loop, so that false stops can be counted."""
        key, session = self._one(name, key)
        label = asked.get("label")
        if label not in LABELS:
            raise BadRequest(f"'label' must be one of {', '.join(LABELS)}.", param="label")
        session.label = str(label)
        stopped = session.was_stopped
        self._tell("session_labelled", self._org(key), key, session, {"who": who, "label": label, "stopped": stopped})
        return self.told(key, session)

    def told(self, key: str, session: Session) -> dict[str, Any]:
        """What is known of a session; no text of anybody's."""
        talks = [talk for talk in session.talks.values() if talk.score > 0]
        taken = added(session.inherited, session.spent)
        worst = max(talks, key=lambda talk: talk.score, default=None)
        found: dict[str, Any] = {
            "object": "session", "id": session.id, "key": key, "root": session.root, "parent": session.parent or None,
            "source": session.source, "depth": session.depth, "children": session.children,
            "started_at": session.started_at, "calls": taken[2],
            "cost_usd": (taken[0] or 0) / NUSD_PER_USD, "tokens": taken[1], "wh": (taken[3] or 0) / MILLIJOULES_PER_WH,
            "status": "stopped" if session.stop is not None else "running",
            "loop": ladder.evidence(session, worst, worst.score, self._now()) if worst is not None else None,
            "steps": sorted(session.taken), "exempt": session.exempt, "label": session.label or None,
            "caps": caps.told_caps(session.own) if session.own is not None else {},
            "footprint": session.receipt.told(session.units),
        }  # fmt: skip
        if session.stop is not None:
            stop = session.stop
            found["stop"] = {
                "id": stop.id,
                "code": stop.code,
                "at": stop.at,
                "hammered": session.hammered,
                "evidence": dict(stop.details),
            }
        return found

    async def _resume(self, key: str, session: Session, asked: Mapping[str, Any], *, who: str) -> dict[str, Any]:
        unknown = set(asked) - {"note", "budget"}
        if unknown:
            raise BadRequest(
                f"'{min(unknown)[:40]}' is not known here; there are note, budget.", param=min(unknown)[:40]
            )
        note, more = _note(asked), asked.get("budget", {})
        if not isinstance(more, dict):
            raise BadRequest('\'budget\' must be an object like {"usd": 1, "calls": 20}.', param="budget")
        caps.asked_of(more)
        for unit in more:
            if not self._raisable(key, session, unit):
                raise BadRequest(f"This session has no cap in '{unit}' that could be raised.", param="budget")
        for unit, amount in more.items():
            await self._allow(key, session, unit, amount, note, who)
        ladder.resume(session, note=note)
        own = caps.told_caps(session.own) if session.own is not None else {}
        self._tell(
            "session_resumed",
            self._org(key),
            key,
            session,
            {"who": who, "note": note, "budget": dict(more), "caps": own},
        )
        return self.told(key, session)

    def _raisable(self, key: str, session: Session, unit: str) -> bool:
        limits = self._world().caps_of(key)
        own = session.own is not None and unit in caps.told_caps(session.own)
        return own or bool(_caps_in(limits, unit)) or (unit == "minutes" and limits.seconds is not None)

    async def _allow(self, key: str, session: Session, unit: str, amount: Any, note: str, who: str) -> None:
        """More of one cap: the run's own, and the operator's that it meets."""
        limits = self._world().caps_of(key)
        if session.own is not None and unit in caps.told_caps(session.own):
            session.own = caps.raised(session.own, caps.asked_of({unit: amount}))
            session.own_version += 1
        for budget in _caps_in(limits, unit):
            whose = session.id if budget.name.startswith("each-") else session.root
            asked = {"amount": float(amount), "scope": {"key": key, "session": whose}, "note": note}
            await self._grant(budget.name, asked, who=who)
        if unit == "minutes" and limits.seconds is not None:
            for holder in (session, *session.above):
                holder.more_seconds += float(amount) * 60

    def _one(self, name: str, key: str | None) -> tuple[str, Session]:
        if key is not None:
            return key, self._found(key, name)
        keys = self._sessions.keys_of(name)
        if len(keys) > 1:
            raise BadRequest(
                f"Several keys have a session '{name[:100]}'; say which: {', '.join(keys[:20])}.", param="key"
            )
        if not keys:
            raise NotFound(f"There is no session '{name[:100]}' here.", param="session")
        return keys[0], self._found(keys[0], name)

    def _found(self, key: str, name: str) -> Session:
        session = self._sessions.of(key, name)
        if session is None:
            raise NotFound(f"There is no session '{name[:100]}' here.", param="session")
        return session

    def _org(self, key: str) -> str:
        return next((caller.org for caller in callers_of(self._world()) if caller.key == key), "default")

    def _tell(self, kind: str, org: str, key: str, session: Session, details: Mapping[str, Any]) -> None:
        event = SessionEvent(
            id=f"{self._fresh_id()}.{kind}", kind=kind, at=self._now(), org=org, key=key, session=session.id, acted=True,
            details={"root": session.root, "parent": session.parent, "started_at": session.started_at, **details},
        )  # fmt: skip
        self._happened(event)


def _caps_in(limits: SessionCaps, unit: str) -> list[Budget]:
    """The operator's caps in a unit."""
    return [budget for budget in limits.all_budgets if budget.name.partition("-")[2].replace("-", "_") == unit]


def _name(asked: Mapping[str, Any], field: str) -> str | None:
    name = asked.get(field)
    if name is None:
        return None
    if not isinstance(name, str) or not name:
        raise BadRequest(f"'{field}' must be the name of a session.", param=field)
    return clean_name(name)


def _only(asked: Mapping[str, Any], fields: tuple[str, ...]) -> None:
    unknown = set(asked) - set(fields)
    if unknown:
        raise BadRequest(
            f"'{min(unknown)[:40]}' is unknown here; there are {', '.join(fields)}.", param=min(unknown)[:40]
        )


def _note(asked: Mapping[str, Any]) -> str:
    note = asked.get("note", "")
    if not isinstance(note, str) or len(note) > _NOTE_CHARS_MAX:
        raise BadRequest(f"'note' must be text of at most {_NOTE_CHARS_MAX} characters.", param="note")
    return note
