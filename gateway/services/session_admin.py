"""Session API: callers read and cap their own sessions, operators resume, exempt, kill and label any session.

Every action is audited.
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
# Quality in [0, 1] by the outcome that a caller reports.
QUALITY_BY_OUTCOME: Mapping[str, float] = {"success": 1.0, "partial": 0.5, "failure": 0.0}
_UNITS_MAX, _UNIT_CHARS_MAX = 1_000_000_000, 64


class GrantBudget(Protocol):
    """Raises the limit of one account of a budget; see BudgetAdmin.grant."""

    async def __call__(self, name: str, body: Mapping[str, Any], *, actor: str) -> dict[str, Any]: ...


class SessionAdmin:
    """Answers callers and operators about sessions; independent of HTTP.

    snapshot: returns the current snapshot
    on_event: called with the event of every action
    fresh_id: returns a new unique id
    secret: signs approval links
    fetch_session: fetches a session (key, organization, name) that another gateway may have served
    grant_budget: raises the limit of one account of a budget
    flush: waits until other gateways can read what was done; raises Overloaded
    """

    def __init__(  # noqa: PLR0913 - wired once, in services/sessions.py
        self,
        snapshot: Callable[[], Snapshot],
        sessions: SessionIndex,
        on_event: Callable[[SessionEvent], None],
        fresh_id: Callable[[], str],
        now: Callable[[], float],
        secret: bytes,
        fetch_session: Callable[[str, str, str], Awaitable[None]],
        grant_budget: GrantBudget,
        flush: Callable[[], Awaitable[None]],
    ) -> None:
        self.flush = flush
        self._fetch_session = fetch_session
        self._grant_budget = grant_budget
        self._snapshot = snapshot
        self._sessions = sessions
        self._on_event = on_event
        self._new_id = fresh_id
        self._now = now
        self._approval_secret = secret

    async def ensure_loaded(self, name: str, key: str | None) -> None:
        """Fetch a session that another gateway may have served; `key` None searches every key."""
        for caller in all_callers(self._snapshot()):
            if key in (None, caller.key):
                await self._fetch_session(caller.key, caller.org, name)

    async def ensure_loaded_by_link(self, token: str) -> None:
        """Fetch the session of an approval link; does nothing for an invalid link."""
        claims = approval_token.verify_token(self._approval_secret, token, now=self._now())
        if claims is not None:
            key, name, _ = claims
            await self._fetch_session(key, self._org_of(key), name)

    def open_session(self, caller: Caller, body: Mapping[str, Any]) -> dict[str, Any]:
        """Open a session for a caller; `id`, `parent`, `root` and `caps` are optional. Raises BadRequest."""
        _reject_unknown_fields(body, ("id", "parent", "root", "caps"))
        names = {field: _parse_name(body, field) for field in ("id", "parent", "root")}
        cap_values = body.get("caps", {})
        if not isinstance(cap_values, dict):
            raise BadRequest('\'caps\' must be an object like {"usd": 2, "minutes": 20}.', param="caps")
        own_caps = caps.parse_caps(cap_values)
        name = names["id"] or f"s-{self._new_id()}"
        session = self._sessions.get_or_create(
            caller.key, name, "opened", now=self._now(), parent=names["parent"], root=names["root"]
        )
        if cap_values and caps.tighten_caps(session, own_caps) and session.own_caps is not None:
            self._emit_event(
                "session_caps", caller.org, caller.key, session, {"caps": caps.caps_to_json(session.own_caps)}
            )
        return self.describe(caller.key, session)

    def get_own(self, caller: Caller, name: str) -> dict[str, Any]:
        """One of the caller's own sessions. Raises NotFound."""
        return self.describe(caller.key, self._find(caller.key, name))

    def report_outcome(self, caller: Caller, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Record how one of the caller's sessions ended. Raises NotFound, BadRequest.

        outcome: success, partial or failure
        units: amount of work done, default 1
        unit: what `units` counts, for example "ticket"
        note: free text
        """
        _reject_unknown_fields(body, ("outcome", "units", "unit", "note"))
        session = self._find(caller.key, name)
        outcome = body.get("outcome")
        if not isinstance(outcome, str) or outcome not in QUALITY_BY_OUTCOME:
            raise BadRequest(f"'outcome' must be one of {', '.join(QUALITY_BY_OUTCOME)}.", param="outcome")
        units = body.get("units", 1)
        if isinstance(units, bool) or not isinstance(units, int | float) or not 0 <= units <= _UNITS_MAX:
            raise BadRequest(f"'units' must be a number from 0 to {_UNITS_MAX}.", param="units")
        unit = body.get("unit", "")
        if not isinstance(unit, str) or len(unit) > _UNIT_CHARS_MAX:
            raise BadRequest(f"'unit' must be a string of at most {_UNIT_CHARS_MAX} characters.", param="unit")
        details = {
            "outcome": outcome,
            "quality": QUALITY_BY_OUTCOME[outcome],
            "units": units,
            "unit": unit,
            "note": _parse_note(body),
        }
        session.reported_units = float(units)
        self._emit_event("session_outcome", caller.org, caller.key, session, details)
        return {"object": "session.outcome", "session": session.id, **details}

    def record_feedback(self, caller: Caller, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Record a caller's feedback on one of its sessions. Raises NotFound, BadRequest.

        rating: quality in [0, 1]
        redone: whether the work had to be done again
        request_id: rates one answer only, default the whole session
        note: free text
        """
        _reject_unknown_fields(body, ("rating", "redone", "request_id", "note"))
        session = self._find(caller.key, name)
        rating, redone = body.get("rating"), body.get("redone", False)
        if not isinstance(redone, bool):
            raise BadRequest("'redone' must be true or false.", param="redone")
        if rating is None and not redone:
            raise BadRequest("A 'rating' from 0 to 1, or 'redone': true, is required.", param="rating")
        if rating is not None and (
            isinstance(rating, bool) or not isinstance(rating, int | float) or not 0 <= rating <= 1
        ):
            raise BadRequest("'rating' must be a number from 0 to 1.", param="rating")
        request_id = body.get("request_id")
        if request_id is not None and (not isinstance(request_id, str) or len(request_id) > _UNIT_CHARS_MAX):
            raise BadRequest("'request_id' must be the value of x-penstock-request-id.", param="request_id")
        details = {
            "rating": rating, "redone": redone, "quality": 0.0 if redone else rating, "request_id": request_id,
            "note": _parse_note(body),
        }  # fmt: skip
        self._emit_event("session_feedback", caller.org, caller.key, session, details)
        return {"object": "session.feedback", "session": session.id, **details}

    def list_sessions(self, *, stopped: bool) -> dict[str, Any]:
        """Sessions held by this gateway, most recent first, at most 1,000; `stopped` selects stopped ones only."""
        matching = [
            (key, session) for key, session in self._sessions.most_recent() if session.stop is not None or not stopped
        ]
        latest = heapq.nlargest(_LISTED_MAX, matching, key=lambda pair: pair[1].last_request_at)
        data = [self.describe(key, session) for key, session in latest]
        return {"object": "list", "data": data, "total": len(matching)}

    def get(self, name: str, key: str | None) -> dict[str, Any]:
        """One session. Raises NotFound, or BadRequest if several keys have a session of that name."""
        key, session = self._find_unique(name, key)
        return self.describe(key, session)

    async def resume(self, name: str, key: str | None, body: Mapping[str, Any], *, actor: str) -> dict[str, Any]:
        """Resume a stopped session. Raises NotFound, BadRequest.

        note: text for the model
        budget: amounts that the session's caps are raised by, by unit
        """
        key, session = self._find_unique(name, key)
        _reject_killed(session)
        return await self._apply_resume(key, session, body, actor=actor)

    async def resume_by_link(self, token: str, note: str) -> dict[str, Any]:
        """Resume a session by a signed link, with a note for the model. Raises NotFound for an invalid link.

        Links raise no caps, because agents receive them too.
        """
        key, session = self.session_of_link(token)
        return await self._apply_resume(key, session, {"note": note}, actor="link")

    def session_of_link(self, token: str) -> tuple[str, Session]:
        """The key and session of a link. Raises NotFound for one that is forged, expired or used."""
        claims = approval_token.verify_token(self._approval_secret, token, now=self._now())
        if claims is not None:
            key, name, stop_id = claims
            session = self._sessions.get(key, name)
            if session is not None and session.stop is not None and session.stop.id == stop_id:
                return key, session
        raise NotFound(
            "Invalid or expired approval link: a link works once, within a day.", code="invalid_approval_link"
        )

    def link_token(self, key: str, session: str, stop: str) -> str:
        """The token of an approval link for one stop."""
        return approval_token.create_token(
            self._approval_secret, key, session, stop, until=self._now() + approval_token.LINK_LIFETIME_SECONDS
        )

    def exempt(self, name: str, key: str | None, *, actor: str) -> dict[str, Any]:
        """Exempt a session from the loop guard; caps and budgets still apply. Raises NotFound, BadRequest."""
        key, session = self._find_unique(name, key)
        _reject_killed(session)
        session.is_exempt = True
        ladder.resume_session(session, note="")
        self._emit_event("session_exempted", self._org_of(key), key, session, {"actor": actor})
        return self.describe(key, session)

    def kill(self, name: str, key: str | None, body: Mapping[str, Any], *, actor: str) -> dict[str, Any]:
        """Stop a session for good. Raises NotFound, BadRequest."""
        key, session = self._find_unique(name, key)
        note = _parse_note(body)
        ladder.kill_session(session, id=self._new_id(), at=self._now(), note=note)
        self._emit_event("session_killed", self._org_of(key), key, session, {"actor": actor, "note": note})
        return self.describe(key, session)

    def label(self, name: str, key: str | None, body: Mapping[str, Any], *, actor: str) -> dict[str, Any]:
        """Label whether a session was a loop, so that false stops can be counted. Raises NotFound, BadRequest."""
        key, session = self._find_unique(name, key)
        label = body.get("label")
        if label not in LABELS:
            raise BadRequest(f"'label' must be one of {', '.join(LABELS)}.", param="label")
        session.loop_label = str(label)
        stopped = session.was_stopped
        self._emit_event(
            "session_labelled", self._org_of(key), key, session, {"actor": actor, "label": label, "stopped": stopped}
        )
        return self.describe(key, session)

    def describe(self, key: str, session: Session) -> dict[str, Any]:
        """A session as JSON; contains no prompt text."""
        repeating = [conversation for conversation in session.conversations_by_key.values() if conversation.score > 0]
        spent = add_amounts(session.inherited, session.spent)
        worst = max(repeating, key=lambda conversation: conversation.score, default=None)
        document: dict[str, Any] = {
            "object": "session", "id": session.id, "key": key, "root": session.root, "parent": session.parent or None,
            "source": session.source, "depth": session.depth, "children": session.child_count,
            "started_at": session.started_at, "calls": spent[2],
            "cost_usd": (spent[0] or 0) / NUSD_PER_USD, "tokens": spent[1],
            "energy_wh": (spent[3] or 0) / MILLIJOULES_PER_WH,
            "status": "stopped" if session.stop is not None else "running",
            "loop": ladder.evidence(session, worst, worst.score, self._now()) if worst is not None else None,
            "ladder_steps": sorted(session.steps_taken), "exempt": session.is_exempt,
            "label": session.loop_label or None,
            "caps": caps.caps_to_json(session.own_caps) if session.own_caps is not None else {},
            "footprint": session.receipt.to_json(session.reported_units),
        }  # fmt: skip
        if session.stop is not None:
            stop = session.stop
            document["stop"] = {
                "id": stop.id,
                "code": stop.code,
                "at": stop.stopped_at,
                "requests_refused": session.refusals_since_stop,
                "evidence": dict(stop.details),
            }
        return document

    async def _apply_resume(self, key: str, session: Session, body: Mapping[str, Any], *, actor: str) -> dict[str, Any]:
        _reject_unknown_fields(body, ("note", "budget"))
        note, raises = _parse_note(body), body.get("budget", {})
        if not isinstance(raises, dict):
            raise BadRequest('\'budget\' must be an object like {"usd": 1, "calls": 20}.', param="budget")
        caps.parse_caps(raises)
        for unit in raises:
            if not self._can_raise(key, session, unit):
                raise BadRequest(f"This session has no cap in '{unit}' to raise.", param="budget")
        for unit, amount in raises.items():
            await self._raise_cap(key, session, unit, amount, note, actor)
        ladder.resume_session(session, note=note)
        own_caps = caps.caps_to_json(session.own_caps) if session.own_caps is not None else {}
        details = {"actor": actor, "note": note, "budget": dict(raises), "caps": own_caps}
        self._emit_event("session_resumed", self._org_of(key), key, session, details)
        return self.describe(key, session)

    def _can_raise(self, key: str, session: Session, unit: str) -> bool:
        limits = self._snapshot().caps_for_key(key)
        has_own_cap = session.own_caps is not None and unit in caps.caps_to_json(session.own_caps)
        return (
            has_own_cap
            or bool(_cap_budgets_in(limits, unit))
            or (unit == "minutes" and limits.duration_seconds_max is not None)
        )

    async def _raise_cap(self, key: str, session: Session, unit: str, amount: Any, note: str, actor: str) -> None:
        """Raise one cap: the session's own, and the operator's that apply to it."""
        limits = self._snapshot().caps_for_key(key)
        if session.own_caps is not None and unit in caps.caps_to_json(session.own_caps):
            session.own_caps = caps.raise_caps(session.own_caps, caps.parse_caps({unit: amount}))
            session.own_caps_version += 1
        for budget in _cap_budgets_in(limits, unit):
            capped = session.id if budget.name.startswith("each-") else session.root
            body = {"amount": float(amount), "scope": {"key": key, "session": capped}, "note": note}
            await self._grant_budget(budget.name, body, actor=actor)
        if unit == "minutes" and limits.duration_seconds_max is not None:
            for extended in (session, *session.ancestors):
                extended.extra_seconds += float(amount) * 60

    def _find_unique(self, name: str, key: str | None) -> tuple[str, Session]:
        if key is not None:
            return key, self._find(key, name)
        keys = self._sessions.keys_of(name)
        if len(keys) > 1:
            raise BadRequest(
                f"Several keys have a session '{name[:100]}'; 'key' must be one of {', '.join(keys[:20])}.", param="key"
            )
        if not keys:
            raise _no_such_session(name)
        return keys[0], self._find(keys[0], name)

    def _find(self, key: str, name: str) -> Session:
        session = self._sessions.get(key, name)
        if session is None:
            raise _no_such_session(name)
        return session

    def _org_of(self, key: str) -> str:
        return next((caller.org for caller in all_callers(self._snapshot()) if caller.key == key), "default")

    def _emit_event(self, kind: str, org: str, key: str, session: Session, details: Mapping[str, Any]) -> None:
        event = SessionEvent(
            id=f"{self._new_id()}.{kind}", kind=kind, at=self._now(), org=org, key=key, session=session.id, was_enforced=True,
            details={"root": session.root, "parent": session.parent, "started_at": session.started_at, **details},
        )  # fmt: skip
        self._on_event(event)


def _cap_budgets_in(limits: SessionCaps, unit: str) -> list[Budget]:
    """The operator's caps in one unit."""
    return [budget for budget in limits.all_budgets if budget.name.partition("-")[2].replace("-", "_") == unit]


def _parse_name(body: Mapping[str, Any], field: str) -> str | None:
    name = body.get(field)
    if name is None:
        return None
    if not isinstance(name, str) or not name:
        raise BadRequest(f"'{field}' must be the name of a session.", param=field)
    return safe_session_id(name)


def _reject_unknown_fields(body: Mapping[str, Any], fields: tuple[str, ...]) -> None:
    unknown = set(body) - set(fields)
    if unknown:
        raise BadRequest(
            f"Unknown field '{min(unknown)[:40]}'; supported fields: {', '.join(fields)}.", param=min(unknown)[:40]
        )


def _parse_note(body: Mapping[str, Any]) -> str:
    note = body.get("note", "")
    if not isinstance(note, str) or len(note) > _NOTE_CHARS_MAX:
        raise BadRequest(f"'note' must be a string of at most {_NOTE_CHARS_MAX} characters.", param="note")
    return note


def _reject_killed(session: Session) -> None:
    if session.stop is not None and session.stop.code == "session_killed":
        raise BadRequest("A killed session cannot be resumed; start a new session.")


def _no_such_session(name: str) -> NotFound:
    return NotFound(f"No such session: '{name[:100]}'.", param="session")
