"""A session as replicas tell it one another: what was done to it, and where it belongs. No counters, no text."""

from collections.abc import Mapping
from typing import Any

from ..values.budget import tighter
from ..values.session import Stop
from . import caps, loop_guard
from .session_index import Session, SessionBook


def record_of(session: Session, *, now: float) -> dict[str, Any]:
    """What the others have to know, as of now (seconds since the epoch)."""
    stop = session.stop
    return {
        "at": now, "source": session.source, "started_at": session.started_at, "root": session.root,
        "parent": session.parent, "admitted": session.admitted, "taken": sorted(session.taken), "moved": session.moved,
        "exempt": session.exempt, "label": session.label, "note": session.note, "resumes": session.resumes,
        "more_seconds": session.more_seconds,
        "caps": caps.told_caps(session.own) if session.own is not None else None,
        "stop": None if stop is None else {
            "id": stop.id, "at": stop.at, "code": stop.code, "message": stop.message, "details": dict(stop.details),
        },
    }  # fmt: skip


# What each kind of event changes of a session: only that is told, so that two replicas do not undo one another's word.
BELONGS = ("source", "started_at", "root", "parent", "admitted")
CHANGES = {
    "session_caps": (*BELONGS, "caps"),
    "session_resumed": ("resumes", "stop", "note", "taken", "caps", "more_seconds"),
    "session_exempted": ("exempt", "resumes", "stop", "taken"),
    "session_killed": (*BELONGS, "stop"),
    "session_labelled": ("label",),
}
CLIMBED = (*BELONGS, "taken", "moved", "stop")


def adopted(book: SessionBook, key: str, name: str, record: Mapping[str, Any]) -> Session:
    """The session as another replica knows it, now known here as well."""
    session = book.named(
        key,
        name,
        record.get("source", "parent"),
        now=record.get("started_at", record["at"]),
        parent=record.get("parent") or None,
        root=record.get("root"),
    )
    if record["at"] > session.changed_at:
        apply(session, record)
    return session


def apply(session: Session, record: Mapping[str, Any]) -> None:
    """Take over what was done to the session elsewhere."""
    session.changed_at = record["at"]
    session.started_at = min(session.started_at, record.get("started_at", session.started_at))
    session.admitted = session.admitted or record.get("admitted", False)
    session.exempt = session.exempt or record.get("exempt", False)
    session.moved, session.label = record.get("moved", session.moved), record.get("label", session.label)
    session.more_seconds = max(session.more_seconds, record.get("more_seconds", 0.0))
    told = record.get("caps")
    stop, resumes = record.get("stop"), record.get("resumes", 0)
    if told is not None:
        own = caps.asked_of(told)
        if session.own is not None and resumes <= session.resumes:
            # Only an operator loosens them.
            own = tighter(session.own, own)
        if own != session.own:
            session.own, session.own_version = own, session.own_version + 1
    if resumes > session.resumes:
        # It was let go on elsewhere: from there on everything is counted anew.
        session.resumes, session.note = resumes, record.get("note", "")
        session.taken, session.stop, session.hammered = frozenset(), None, 0
        for talk in session.talks.values():
            loop_guard.forget(talk)
    session.taken = session.taken | frozenset(record.get("taken", ()))
    if stop is not None and resumes == session.resumes:
        session.stop = Stop(**stop)
        session.stop_seen_at = max(session.stop_seen_at, stop["at"])
