"""Session records that replicas exchange. Pure.

A record holds lineage, caps, ladder steps and stops; no counters and no prompt text.
"""

from collections.abc import Mapping
from typing import Any

from ..values.budget import tightest_caps
from ..values.session import SessionStop
from . import caps, loop_guard
from .session_index import Session, SessionIndex


def to_record(session: Session, *, now: float) -> dict[str, Any]:
    """The session's record as of `now` (seconds since the epoch)."""
    stop = session.stop
    return {
        "at": now, "source": session.source, "started_at": session.started_at, "root": session.root,
        "parent": session.parent, "admitted": session.is_counted_sub_agent, "taken": sorted(session.steps_taken), "moved": session.tier_move,
        "exempt": session.is_exempt, "label": session.loop_label, "note": session.resume_note, "resumes": session.resume_count,
        "more_seconds": session.extra_seconds,
        "caps": caps.caps_to_json(session.own_caps) if session.own_caps is not None else None,
        "stop": None if stop is None else {
            "id": stop.id, "at": stop.stopped_at, "code": stop.code, "message": stop.message, "details": dict(stop.details),
        },
    }  # fmt: skip


# The record fields that each kind of event changes; only those are published, so that replicas do not undo each other.
LINEAGE_FIELDS = ("source", "started_at", "root", "parent", "admitted")
FIELDS_BY_EVENT = {
    "session_caps": (*LINEAGE_FIELDS, "caps"),
    "session_resumed": ("resumes", "stop", "note", "taken", "caps", "more_seconds"),
    "session_exempted": ("exempt", "resumes", "stop", "taken"),
    "session_killed": (*LINEAGE_FIELDS, "stop"),
    "session_labelled": ("label",),
}
LADDER_FIELDS = (*LINEAGE_FIELDS, "taken", "moved", "stop")


def adopt_record(sessions: SessionIndex, key: str, name: str, record: Mapping[str, Any]) -> Session:
    """Create or update the session from another replica's record."""
    session = sessions.get_or_create(
        key,
        name,
        record.get("source", "parent"),
        now=record.get("started_at", record["at"]),
        parent=record.get("parent") or None,
        root=record.get("root"),
    )
    if record["at"] > session.replica_record_at:
        apply_record(session, record)
    return session


def apply_record(session: Session, record: Mapping[str, Any]) -> None:
    """Apply changes that another replica made to the session."""
    session.replica_record_at = record["at"]
    session.started_at = min(session.started_at, record.get("started_at", session.started_at))
    session.is_counted_sub_agent = session.is_counted_sub_agent or record.get("admitted", False)
    session.is_exempt = session.is_exempt or record.get("exempt", False)
    session.tier_move, session.loop_label = (
        record.get("moved", session.tier_move),
        record.get("label", session.loop_label),
    )
    session.extra_seconds = max(session.extra_seconds, record.get("more_seconds", 0.0))
    caps_document = record.get("caps")
    stop, resumes = record.get("stop"), record.get("resumes", 0)
    if caps_document is not None:
        own = caps.parse_caps(caps_document)
        if session.own_caps is not None and resumes <= session.resume_count:
            # Only an operator's resumption may loosen caps.
            own = tightest_caps(session.own_caps, own)
        if own != session.own_caps:
            session.own_caps, session.own_caps_version = own, session.own_caps_version + 1
    if resumes > session.resume_count:
        # Resumed at another replica: scores and steps start again.
        session.resume_count, session.resume_note = resumes, record.get("note", "")
        session.steps_taken, session.stop, session.refusals_since_stop = frozenset(), None, 0
        for conversation in session.conversations_by_key.values():
            loop_guard.reset_conversation(conversation)
    session.steps_taken = session.steps_taken | frozenset(record.get("taken", ()))
    if stop is not None and resumes == session.resume_count:
        session.stop = SessionStop(
            id=stop["id"], stopped_at=stop["at"], code=stop["code"], message=stop["message"], details=stop["details"]
        )
        session.refused_at = max(session.refused_at, stop["at"])
