"""A session as replicas tell it one another: what was done to it, and where it belongs. No counters, no text."""

from collections.abc import Mapping
from typing import Any

from ..values.session import Stop
from . import caps
from .identity import Session, SessionBook


def record_of(session: Session, *, now: float) -> dict[str, Any]:
    """What the others have to know, as of now (seconds since the epoch)."""
    stop = session.stop
    return {
        "at": now, "source": session.source, "started_at": session.started_at, "root": session.root,
        "parent": session.parent, "admitted": session.admitted, "taken": sorted(session.taken), "moved": session.moved,
        "exempt": session.exempt, "label": session.label, "note": session.note, "resumes": session.resumes,
        "caps": caps.told_caps(session.own) if session.own is not None else None,
        "stop": None if stop is None else {
            "id": stop.id, "at": stop.at, "code": stop.code, "message": stop.message, "details": dict(stop.details),
        },
    }  # fmt: skip


def adopted(book: SessionBook, key: str, name: str, record: Mapping[str, Any]) -> Session:
    """The session as another replica knows it, now known here as well."""
    session = book.named(
        key, name, record["source"], now=record["started_at"], parent=record["parent"] or None, root=record["root"]
    )
    if record["at"] > session.changed_at:
        apply(session, record)
    return session


def apply(session: Session, record: Mapping[str, Any]) -> None:
    """Take over what was done to the session elsewhere."""
    session.changed_at = record["at"]
    session.started_at = min(session.started_at, record["started_at"])
    session.admitted = session.admitted or record["admitted"]
    session.exempt, session.moved, session.label = record["exempt"], record["moved"], record["label"]
    session.note = session.note or record["note"]
    if record["caps"] is not None:
        session.own, session.own_version = caps.asked_of(record["caps"]), session.own_version + 1
    stop = record["stop"]
    if record["resumes"] > session.resumes:
        # It was let go on elsewhere: from there on everything is counted anew.
        session.resumes = record["resumes"]
        session.taken = frozenset(record["taken"])
        for talk in session.talks.values():
            talk.score = 0.0
    session.taken = session.taken | frozenset(record["taken"])
    session.stop = Stop(**stop) if stop is not None else None
    session.stop_seen_at = max(session.stop_seen_at, stop["at"]) if stop is not None else session.stop_seen_at
