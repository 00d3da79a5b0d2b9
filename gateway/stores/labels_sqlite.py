"""Labels of own traffic in SQLite, beside the ledger: what both tiers, or one, made of a request. Bounded, oldest out.

Features only, unless the operator opted in to content. Written from a thread, a few seconds' worth at a time. `learned.json` beside it is what was fitted to them, replaced as a whole.
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
    """One label. The models are those of the route's lowest and highest tier; `small` and `large` are qualities in [0, 1], None where that
    side was not seen; `how` is judge, outcome, feedback or check. `score` is the complexity it was routed by, `moved` what all but
    the prompt moved its log-odds by; `opens`: it was its session's first. `numbers` (32-bit floats) and `words` (32-bit places in its
    vocabulary; `known` is their share of all words, in [0, 1]) are what the scorer of that name weighed, `content` prompt and answers as JSON, None where they are not kept."""

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
    how: str
    scorer: str
    numbers: bytes = b""
    words: bytes = b""
    known: float = 0.0
    opens: int = 1
    content: str | None = None

    @property
    def group(self) -> LabelGroup:
        """What a claim that it carries is about."""
        return self.org, self.task_type, self.small_model, self.large_model

    def __repr__(self) -> str:
        # Its content belongs in no log.
        return f"KeptLabel({self.id}, {self.how})"


class SqliteLabels:
    """The labels of one data folder."""

    def __init__(self, folder: Path, labels_max: int) -> None:
        self._path, self._labels_max = folder / "labels.sqlite", labels_max

    def create(self) -> None:
        """Make the file, if there is none. Raises OSError and sqlite3.Error."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        db = self._connect()
        try:
            db.executescript(_SCHEMA)
        finally:
            db.close()

    def add(self, labels: Iterable[StoredLabel]) -> None:
        """Keep labels, in one transaction; the same id is kept once. Raises sqlite3.Error."""
        rows = [
            (
                label.id, label.at_ms, label.org, label.task_type, label.small_model, label.large_model,
                label.score, label.moved, label.small, label.large, label.how, label.scorer,
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
        """What labels said of a group before then is no longer so. Raises sqlite3.Error."""
        db = self._connect()
        try:
            db.execute("INSERT OR REPLACE INTO resets VALUES (?, ?, ?, ?, ?)", (*group, at_ms))
        finally:
            db.close()

    def resets(self) -> dict[LabelGroup, int]:
        """When (ms since the epoch) what labels said of a group ended last."""
        db = self._connect()
        try:
            return {(row[0], row[1], row[2], row[3]): row[4] for row in db.execute("SELECT * FROM resets")}
        finally:
            db.close()

    def valid_labels(self) -> Iterator[StoredLabel]:
        """Every label that still holds, oldest first; at most the bound."""
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
                    score=row[6], moved=row[7], small=row[8], large=row[9], how=row[10], scorer=row[11],
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


def write_learned(folder: Path, learnt: LearnedFloors) -> None:
    """Replace what was learnt, as a whole. Raises OSError."""
    fitted = [(*group, msgspec.to_builtins(one)) for group, one in sorted(learnt.floors.items())]
    document = {"scorer": learnt.scorer, "at": learnt.fitted_at, "fitted": fitted}
    fresh = folder / f"{LEARNED_FILE}.new"
    fresh.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    fresh.replace(folder / LEARNED_FILE)


def read_learned(folder: Path) -> LearnedFloors | None:
    """What was learnt, None where nothing was. Raises OSError, and ValueError for what is no such file."""
    path = folder / LEARNED_FILE
    if not path.exists():
        return None
    try:
        written = _LEARNED_DECODER.decode(path.read_bytes())
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}: not what `penstock learn fit` writes: {error}") from error
    fitted: dict[LabelGroup, FittedFloor] = {
        (org, task, small, large): one for org, task, small, large, one in written.fitted
    }
    return LearnedFloors(scorer=written.scorer, fitted_at=written.at, floors=fitted)
