"""The desk for sessions: what runs, what was stopped and why, and what operators do about it. Every action is audited.

Callers may look at their own sessions and set tighter caps for them; all else is the operator's.
"""

import heapq
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from ..sessions import approval_token, caps, ladder
from ..sessions.body_session_id import safe_session_id
from ..sessions.session_index import Session, SessionIndex
from ..values.budget import Budget, SessionCaps, add_amounts
from ..values.errors import BadRequest, NotFound
from ..values.request import Caller
from ..values.session import SessionEvent
from ..values.snapshot import Snapshot, all_callers
from ..values.units import MILLIJOULES_PER_WH, NUSD_PER_USD

_NOTE_CHARS_MAX = 1000
_LISTED_MAX = 1000
LABELS = ("healthy", "loop")
# How a session may have ended, as a quality in [0, 1].
QUALITY_BY_OUTCOME: Mapping[str, float] = {"success": 1.0, "partial": 0.5, "failure": 0.0}
_UNITS_MAX, _UNIT_CHARS_MAX = 1_000_000_000, 64


class GrantBudget(Protocol):
    """Allows more on one account of a budget; see Desk.grant."""

    async def __call__(self, name: str, asked: Mapping[str, Any], *, who: str) -> dict[str, Any]: ...


class SessionAdmin:
    """Answers callers and operators about sessions. `fresh_id` gives ids, `happened` hears of every action, `reach`
    asks other gateways (key, organisation, session), `grant` allows more, `known` waits until other gateways can know
    what was done (and raises Overloaded)."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        sessions: SessionIndex,
        happened: Callable[[SessionEvent], None],
        fresh_id: Callable[[], str],
        now: Callable[[], float],
        secret: bytes,
        reach: Callable[[str, str, str], Awaitable[None]],
        grant: GrantBudget,
        known: Callable[[], Awaitable[None]],
    ) -> None:
        self.flush = known
        self._ensure_loaded = reach
        self._grant_budget = grant
        self._world = snapshot
        self._sessions = sessions
        self._on_event = happened
        self._new_id = fresh_id
        self._now = now
        self._approval_secret = secret

    async def ensure_loaded(self, name: str, key: str | None) -> None:
        """Have a session at hand that another gateway may have served; `key` None: of any key."""
        for caller in all_callers(self._world()):
            if key in (None, caller.key):
                await self._ensure_loaded(caller.key, caller.org, name)

    async def ensure_loaded_by_link(self, token: str) -> None:
        """The same for the session that a link is for."""
        read = approval_token.verify_token(self._approval_secret, token, now=self._now())
        if read is not None:
            await self._ensure_loaded(read[0], self._org_of(read[0]), read[1])

    def open_session(self, caller: Caller, asked: Mapping[str, Any]) -> dict[str, Any]:
        """A caller starts a run and says what it may take: `id`, `parent`, `root`, `caps`; all of them optional.
        Raises BadRequest."""
        unknown = set(asked) - {"id", "parent", "root", "caps"}
        if unknown:
            raise BadRequest(
                f"'{min(unknown)[:40]}' is no field of a session; there are id, parent, root, caps.",
                param=min(unknown)[:40],
            )
        names = {field: _parse_name(asked, field) for field in ("id", "parent", "root")}
        wanted = asked.get("caps", {})
        if not isinstance(wanted, dict):
            raise BadRequest('\'caps\' must be an object like {"usd": 2, "minutes": 20}.', param="caps")
        own = caps.parse_caps(wanted)
        name = names["id"] or f"s-{self._new_id()}"
        session = self._sessions.get_or_create(
            caller.key, name, "opened", now=self._now(), parent=names["parent"], root=names["root"]
        )
        if wanted and caps.tighten_caps(session, own) and session.own_caps is not None:
            self._emit_event(
                "session_caps", caller.org, caller.key, session, {"caps": caps.caps_to_json(session.own_caps)}
            )
        return self.describe(caller.key, session)

    def get_own(self, caller: Caller, name: str) -> dict[str, Any]:
        """One of the caller's own sessions. Raises NotFound."""
        return self.describe(caller.key, self._find(caller.key, name))

    def report_outcome(self, caller: Caller, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """How a session of the caller's ended: `outcome` (success, partial, failure), and how many `units` of work, of
        which `unit`, it did. Raises NotFound, BadRequest."""
        _reject_unknown_fields(asked, ("outcome", "units", "unit", "note"))
        session = self._find(caller.key, name)
        outcome = asked.get("outcome")
        if not isinstance(outcome, str) or outcome not in QUALITY_BY_OUTCOME:
            raise BadRequest(f"'outcome' must be one of {', '.join(QUALITY_BY_OUTCOME)}.", param="outcome")
        units = asked.get("units", 1)
        if isinstance(units, bool) or not isinstance(units, int | float) or not 0 <= units <= _UNITS_MAX:
            raise BadRequest(f"'units' must be a number from 0 to {_UNITS_MAX}.", param="units")
        unit = asked.get("unit", "")
        if not isinstance(unit, str) or len(unit) > _UNIT_CHARS_MAX:
            raise BadRequest(f"'unit' must be text of at most {_UNIT_CHARS_MAX} characters.", param="unit")
        details = {
            "outcome": outcome,
            "quality": QUALITY_BY_OUTCOME[outcome],
            "units": units,
            "unit": unit,
            "note": _parse_note(asked),
        }
        session.reported_units = float(units)
        self._emit_event("session_outcome", caller.org, caller.key, session, details)
        return {"object": "session.outcome", "session": session.id, **details}

    def record_feedback(self, caller: Caller, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What a caller thinks of a session, or of one answer in it (`request_id`): `rating` in [0, 1], or `redone` where
        the work had to be done again. Raises NotFound, BadRequest."""
        _reject_unknown_fields(asked, ("rating", "redone", "request_id", "note"))
        session = self._find(caller.key, name)
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
            "note": _parse_note(asked),
        }  # fmt: skip
        self._emit_event("session_feedback", caller.org, caller.key, session, details)
        return {"object": "session.feedback", "session": session.id, **details}

    def list_sessions(self, *, stopped: bool) -> dict[str, Any]:
        """The sessions of this gateway, newest first, at most a thousand; `stopped`: only those that are not served."""
        every = [(key, one) for key, one in self._sessions.most_recent() if one.stop is not None or not stopped]
        latest = heapq.nlargest(_LISTED_MAX, every, key=lambda pair: pair[1].last_request_at)
        return {"object": "list", "data": [self.describe(key, one) for key, one in latest], "total": len(every)}

    def get(self, name: str, key: str | None) -> dict[str, Any]:
        """One session. Raises NotFound, or BadRequest where several keys have one of that name."""
        key, session = self._find_unique(name, key)
        return self.describe(key, session)

    async def resume(self, name: str, key: str | None, asked: Mapping[str, Any], *, who: str) -> dict[str, Any]:
        """Let a session go on: `note` is what the model will see, `budget` what its own caps are raised by.
        Raises NotFound, BadRequest."""
        key, session = self._find_unique(name, key)
        if session.stop is not None and session.stop.code == "session_killed":
            raise BadRequest("A session that was killed is not resumed; start a new one.")
        return await self._apply_resume(key, session, asked, who=who)

    async def resume_by_link(self, token: str, note: str) -> dict[str, Any]:
        """Let a session go on by a signed link, with a note for the model and no more: agents are told the link, too.
        Raises NotFound for one that is forged, old, or was used."""
        key, session = self.session_of_link(token)
        return await self._apply_resume(key, session, {"note": note}, who="link")

    def session_of_link(self, token: str) -> tuple[str, Session]:
        """The key and session that a link is for. Raises NotFound."""
        read = approval_token.verify_token(self._approval_secret, token, now=self._now())
        session = self._sessions.get(read[0], read[1]) if read is not None else None
        if read is None or session is None or session.stop is None or session.stop.id != read[2]:
            raise NotFound("This link is not valid any more: it works once, and for a day.", code="link_not_valid")
        return read[0], session

    def link_token(self, key: str, session: str, stop: str) -> str:
        """The token of the link for one stop."""
        return approval_token.create_token(
            self._approval_secret, key, session, stop, until=self._now() + approval_token.LINK_LIFETIME_SECONDS
        )

    def exempt(self, name: str, key: str | None, *, who: str) -> dict[str, Any]:
        """The loop guard leaves the session alone from now on; caps and budgets do not."""
        key, session = self._find_unique(name, key)
        if session.stop is not None and session.stop.code == "session_killed":
            raise BadRequest("A session that was killed is not served any more; start a new one.")
        session.is_exempt = True
        ladder.resume_session(session, note="")
        self._emit_event("session_exempted", self._org_of(key), key, session, {"who": who})
        return self.describe(key, session)

    def kill(self, name: str, key: str | None, asked: Mapping[str, Any], *, who: str) -> dict[str, Any]:
        """Never serve the session again."""
        key, session = self._find_unique(name, key)
        note = _parse_note(asked)
        ladder.kill_session(session, id=self._new_id(), at=self._now(), why=note)
        self._emit_event("session_killed", self._org_of(key), key, session, {"who": who, "note": note})
        return self.describe(key, session)

    def label(self, name: str, key: str | None, asked: Mapping[str, Any], *, who: str) -> dict[str, Any]:
        """Say whether the session was a loop, so that false stops can be counted."""
        key, session = self._find_unique(name, key)
        label = asked.get("label")
        if label not in LABELS:
            raise BadRequest(f"'label' must be one of {', '.join(LABELS)}.", param="label")
        session.loop_label = str(label)
        stopped = session.was_stopped
        self._emit_event(
            "session_labelled", self._org_of(key), key, session, {"who": who, "label": label, "stopped": stopped}
        )
        return self.describe(key, session)

    def describe(self, key: str, session: Session) -> dict[str, Any]:
        """What is known of a session; no text of anybody's."""
        conversations = [
            conversation for conversation in session.conversations_by_key.values() if conversation.score > 0
        ]
        taken = add_amounts(session.inherited, session.spent)
        worst = max(conversations, key=lambda talk: talk.score, default=None)
        found: dict[str, Any] = {
            "object": "session", "id": session.id, "key": key, "root": session.root, "parent": session.parent or None,
            "source": session.source, "depth": session.depth, "children": session.child_count,
            "started_at": session.started_at, "calls": taken[2],
            "cost_usd": (taken[0] or 0) / NUSD_PER_USD, "tokens": taken[1], "wh": (taken[3] or 0) / MILLIJOULES_PER_WH,
            "status": "stopped" if session.stop is not None else "running",
            "loop": ladder.evidence(session, worst, worst.score, self._now()) if worst is not None else None,
            "steps": sorted(session.steps_taken), "exempt": session.is_exempt, "label": session.loop_label or None,
            "caps": caps.caps_to_json(session.own_caps) if session.own_caps is not None else {},
            "footprint": session.receipt.to_json(session.reported_units),
        }  # fmt: skip
        if session.stop is not None:
            stop = session.stop
            found["stop"] = {
                "id": stop.id,
                "code": stop.code,
                "at": stop.stopped_at,
                "hammered": session.refusals_since_stop,
                "evidence": dict(stop.details),
            }
        return found

    async def _apply_resume(self, key: str, session: Session, asked: Mapping[str, Any], *, who: str) -> dict[str, Any]:
        unknown = set(asked) - {"note", "budget"}
        if unknown:
            raise BadRequest(
                f"'{min(unknown)[:40]}' is not known here; there are note, budget.", param=min(unknown)[:40]
            )
        note, more = _parse_note(asked), asked.get("budget", {})
        if not isinstance(more, dict):
            raise BadRequest('\'budget\' must be an object like {"usd": 1, "calls": 20}.', param="budget")
        caps.parse_caps(more)
        for unit in more:
            if not self._can_raise(key, session, unit):
                raise BadRequest(f"This session has no cap in '{unit}' that could be raised.", param="budget")
        for unit, amount in more.items():
            await self._raise_cap(key, session, unit, amount, note, who)
        ladder.resume_session(session, note=note)
        own = caps.caps_to_json(session.own_caps) if session.own_caps is not None else {}
        self._emit_event(
            "session_resumed",
            self._org_of(key),
            key,
            session,
            {"who": who, "note": note, "budget": dict(more), "caps": own},
        )
        return self.describe(key, session)

    def _can_raise(self, key: str, session: Session, unit: str) -> bool:
        limits = self._world().caps_for_key(key)
        own = session.own_caps is not None and unit in caps.caps_to_json(session.own_caps)
        return (
            own
            or bool(_cap_budgets_in(limits, unit))
            or (unit == "minutes" and limits.duration_seconds_max is not None)
        )

    async def _raise_cap(self, key: str, session: Session, unit: str, amount: Any, note: str, who: str) -> None:
        """More of one cap: the run's own, and the operator's that it meets."""
        limits = self._world().caps_for_key(key)
        if session.own_caps is not None and unit in caps.caps_to_json(session.own_caps):
            session.own_caps = caps.raise_caps(session.own_caps, caps.parse_caps({unit: amount}))
            session.own_caps_version += 1
        for budget in _cap_budgets_in(limits, unit):
            whose = session.id if budget.name.startswith("each-") else session.root
            asked = {"amount": float(amount), "scope": {"key": key, "session": whose}, "note": note}
            await self._grant_budget(budget.name, asked, who=who)
        if unit == "minutes" and limits.duration_seconds_max is not None:
            for reserver in (session, *session.ancestors):
                reserver.extra_seconds += float(amount) * 60

    def _find_unique(self, name: str, key: str | None) -> tuple[str, Session]:
        if key is not None:
            return key, self._find(key, name)
        keys = self._sessions.keys_of(name)
        if len(keys) > 1:
            raise BadRequest(
                f"Several keys have a session '{name[:100]}'; say which: {', '.join(keys[:20])}.", param="key"
            )
        if not keys:
            raise NotFound(f"There is no session '{name[:100]}' here.", param="session")
        return keys[0], self._find(keys[0], name)

    def _find(self, key: str, name: str) -> Session:
        session = self._sessions.get(key, name)
        if session is None:
            raise NotFound(f"There is no session '{name[:100]}' here.", param="session")
        return session

    def _org_of(self, key: str) -> str:
        return next((caller.org for caller in all_callers(self._world()) if caller.key == key), "default")

    def _emit_event(self, kind: str, org: str, key: str, session: Session, details: Mapping[str, Any]) -> None:
        event = SessionEvent(
            id=f"{self._new_id()}.{kind}", kind=kind, at=self._now(), org=org, key=key, session=session.id, was_enforced=True,
            details={"root": session.root, "parent": session.parent, "started_at": session.started_at, **details},
        )  # fmt: skip
        self._on_event(event)


def _cap_budgets_in(limits: SessionCaps, unit: str) -> list[Budget]:
    """The operator's caps in a unit."""
    return [budget for budget in limits.all_budgets if budget.name.partition("-")[2].replace("-", "_") == unit]


def _parse_name(asked: Mapping[str, Any], field: str) -> str | None:
    name = asked.get(field)
    if name is None:
        return None
    if not isinstance(name, str) or not name:
        raise BadRequest(f"'{field}' must be the name of a session.", param=field)
    return safe_session_id(name)


def _reject_unknown_fields(asked: Mapping[str, Any], fields: tuple[str, ...]) -> None:
    unknown = set(asked) - set(fields)
    if unknown:
        raise BadRequest(
            f"'{min(unknown)[:40]}' is unknown here; there are {', '.join(fields)}.", param=min(unknown)[:40]
        )


def _parse_note(asked: Mapping[str, Any]) -> str:
    note = asked.get("note", "")
    if not isinstance(note, str) or len(note) > _NOTE_CHARS_MAX:
        raise BadRequest(f"'note' must be text of at most {_NOTE_CHARS_MAX} characters.", param="note")
    return note
