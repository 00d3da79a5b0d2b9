"""Quality labels of own traffic in SQLite, bounded, oldest dropped.

A label says how well one or both tiers answered a request.

Stores features only, unless the operator opted in to content. Written from a thread, a few seconds' worth at a time.
`learned.json` in the same folder holds the floors fitted to them and is replaced as a whole.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import orjson

from ..values.base import Value
from ..values.quality import FittedFloor, LabelGroup, LearnedFloors

_SCHEMA = """
CREATE TABLE IF NOT EXISTS labels (
    id TEXT NOT NULL UNIQUE, at_ms INTEGER NOT NULL, org TEXT NOT NULL, task_type TEXT NOT NULL,
    small_model TEXT NOT NULL, large_model TEXT NOT NULL, score REAL NOT NULL, moved REAL NOT NULL, small REAL, large REAL, how TEXT NOT NULL,
    scorer TEXT NOT NULL, numbers BLOB NOT NULL, words BLOB NOT NULL, known REAL NOT NULL, opens INTEGER NOT NULL, content TEXT
);
CREATE TABLE IF NOT EXISTS resets (
    org TEXT NOT NULL, task_type TEXT NOT NULL, small_model TEXT NOT NULL, large_model TEXT NOT NULL, at_ms INTEGER NOT NULL,
    PRIMARY KEY (org, task_type, small_model, large_model)
);
CREATE INDEX IF NOT EXISTS labels_of ON labels (org, task_type, at_ms);
"""
_INSERT = f"INSERT OR IGNORE INTO labels VALUES ({', '.join('?' * 17)})"
LEARNED_FILE = "learned.json"


class StoredLabel(Value, frozen=True, kw_only=True):
    """One quality label.

    id: unique id.
    at_ms: milliseconds since the epoch.
    org: caller's organization.
    task_type: classified task type.
    small_model, large_model: models of the route's lowest and highest tier.
    score: complexity that the request was routed by, in [0, 1].
    moved: log-odds shift by everything except the prompt.
    small, large: quality of that tier's answer in [0, 1], None if it was not seen.
    source: judge, outcome, feedback or check.
    scorer: name of the scorer that `numbers` and `words` belong to.
    numbers: the scorer's numeric features, 32-bit floats.
    words: 32-bit indices into the scorer's vocabulary.
    known: share of the prompt's words in that vocabulary, in [0, 1].
    opens: 1 for the first request of its session.
    content: prompt and answers as JSON, None if not kept.
    """

    id: str
    at_ms: int
    org: str
    task_type: str
    small_model: str
    large_model: str
    score: float
    moved: float
    small: float | None
    large: float | None
    source: str
    scorer: str
    numbers: bytes = b""
    words: bytes = b""
    known: float = 0.0
    opens: int = 1
    content: str | None = None

    @property
    def group(self) -> LabelGroup:
        """The group whose quality floor it counts for."""
        return self.org, self.task_type, self.small_model, self.large_model

    def __repr__(self) -> str:
        # Content must not reach the logs.
        return f"StoredLabel({self.id}, {self.source})"


class SqliteLabels:
    """Labels in one data folder."""

    def __init__(self, folder: Path, labels_max: int) -> None:
        self._path, self._labels_max = folder / "labels.sqlite", labels_max

    def create(self) -> None:
        """Create the file if it does not exist. Raises OSError and sqlite3.Error."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        db = self._connect()
        try:
            db.executescript(_SCHEMA)
        finally:
            db.close()

    def add(self, labels: Iterable[StoredLabel]) -> None:
        """Store labels in one transaction; a known id is ignored. Raises sqlite3.Error."""
        rows = [
            (
                label.id, label.at_ms, label.org, label.task_type, label.small_model, label.large_model,
                label.score, label.moved, label.small, label.large, label.source, label.scorer,
                label.numbers, label.words, label.known, label.opens, label.content,
            )
            for label in labels
        ]  # fmt: skip
        db = self._connect()
        try:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(_INSERT, rows)
            db.execute("DELETE FROM labels WHERE rowid <= (SELECT MAX(rowid) FROM labels) - ?", (self._labels_max,))
            db.execute("COMMIT")
        finally:
            db.close()

    def reset(self, group: LabelGroup, at_ms: int) -> None:
        """Invalidate a group's labels up to that time. Raises sqlite3.Error."""
        db = self._connect()
        try:
            db.execute("INSERT OR REPLACE INTO resets VALUES (?, ?, ?, ?, ?)", (*group, at_ms))
        finally:
            db.close()

    def resets(self) -> dict[LabelGroup, int]:
        """The latest reset of each group, in ms since the epoch."""
        db = self._connect()
        try:
            return {(row[0], row[1], row[2], row[3]): row[4] for row in db.execute("SELECT * FROM resets")}
        finally:
            db.close()

    def valid_labels(self) -> Iterator[StoredLabel]:
        """Labels newer than their group's reset, oldest first; at most `labels_max`."""
        db = self._connect()
        try:
            rows = db.execute(
                "SELECT * FROM (SELECT labels.* FROM labels LEFT JOIN resets USING (org, task_type, small_model, large_model)"
                " WHERE labels.at_ms > COALESCE(resets.at_ms, 0) ORDER BY labels.at_ms DESC LIMIT ?) ORDER BY at_ms",
                (self._labels_max,),
            )
            for row in rows:
                yield StoredLabel(
                    id=row[0], at_ms=row[1], org=row[2], task_type=row[3], small_model=row[4], large_model=row[5],
                    score=row[6], moved=row[7], small=row[8], large=row[9], source=row[10], scorer=row[11],
                    numbers=row[12], words=row[13], known=row[14], opens=row[15],
                    content=row[16],
                )  # fmt: skip
        finally:
            db.close()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=10.0, isolation_level=None)


class _LearnedFile(msgspec.Struct):
    scorer: str
    at: float
    fitted: list[tuple[str, str, str, str, FittedFloor]]


_LEARNED_DECODER = msgspec.json.Decoder(_LearnedFile)


def write_learned(folder: Path, learned: LearnedFloors) -> None:
    """Replace the file of fitted floors as a whole. Raises OSError."""
    fitted = [(*group, msgspec.to_builtins(floor)) for group, floor in sorted(learned.floors.items())]
    document = {"scorer": learned.scorer, "at": learned.fitted_at, "fitted": fitted}
    fresh = folder / f"{LEARNED_FILE}.new"
    fresh.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    fresh.replace(folder / LEARNED_FILE)


def read_learned(folder: Path) -> LearnedFloors | None:
    """Read the fitted floors, None without a file. Raises OSError and ValueError."""
    path = folder / LEARNED_FILE
    if not path.exists():
        return None
    try:
        document = _LEARNED_DECODER.decode(path.read_bytes())
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}: not a file of `penstock learn fit`: {error}") from error
    fitted: dict[LabelGroup, FittedFloor] = {
        (org, task, small, large): floor for org, task, small, large, floor in document.fitted
    }
    return LearnedFloors(scorer=document.scorer, fitted_at=document.at, floors=fitted)
