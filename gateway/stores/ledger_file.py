"""The ledger's file: whether it is still the one that was opened, and whether a start may begin a new one.

SQLite does not notice that its file was moved or deleted: it writes to the open file, which no later start finds, and a
connection by name begins an empty one.
"""

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

# Below this a file has no SQLite header and first page (the smallest page has 512 bytes).
_BYTES_MIN = 512
_MISSING, _EMPTY, _OTHER = "file is missing", "file is empty", "file holds no ledger"


class LostLedger(OSError):
    """The data folder has had a ledger that is not there; a new one is begun on request only.

    fault: what is wrong with the file
    """

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(
            f"ledger {path}: {fault}, but this data folder has had a ledger; move the file back or restore a backup, or "
            "begin a new ledger with `penstock serve --new-ledger`: budgets then forget what was spent"
        )
        self.fault = fault


class LedgerFile:
    """The file at `path` as it was opened, compared with what is there now. Calls block, for microseconds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        status = os.stat(path)
        self._identity = (status.st_dev, status.st_ino)
        self._bytes_max = status.st_size
        self._is_damaged = False

    def fault(self) -> str:
        """`missing`, `replaced`, `truncated`, or why it cannot be looked at; "" for none."""
        try:
            status = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
        except OSError as error:
            return f"inaccessible ({error.strerror})"
        if (status.st_dev, status.st_ino) != self._identity:
            return "replaced"
        if self._is_damaged or status.st_size < max(self._bytes_max, _BYTES_MIN):
            return "truncated"
        self._bytes_max = status.st_size
        return ""

    def check_content(self) -> None:
        """Read a file that is smaller than before: VACUUM by an operator is no fault. Blocks while it is read.

        What was damaged once stays a fault until the next start: the open connection may have read pages of it.
        """
        if self._is_damaged:
            return
        try:
            db = connect_existing(self.path)
            try:
                is_sound = db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
            finally:
                db.close()
            size = os.stat(self.path).st_size
        except (sqlite3.Error, OSError):
            is_sound, size = False, 0
        self._is_damaged = not is_sound or size < _BYTES_MIN
        self._bytes_max = min(self._bytes_max, size)


def connect_existing(path: Path, table: str = "entries") -> sqlite3.Connection:
    """Connect to a ledger file that has a table; creates none. Raises sqlite3.Error.

    Opens no empty file: SQLite would delete the log beside it, which may hold all of the ledger.
    """
    try:
        is_empty = path.stat().st_size < _BYTES_MIN
    except OSError as error:
        raise sqlite3.OperationalError(_MISSING) from error
    if is_empty:
        raise sqlite3.OperationalError(_EMPTY)
    db = sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw", uri=True, timeout=10.0, check_same_thread=False, isolation_level=None
    )
    try:
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone() is None:
            raise sqlite3.OperationalError(_OTHER)
    except sqlite3.Error:
        db.close()
        raise
    return db


def require_ledger(path: Path) -> None:
    """Check the ledger of a data folder that has had one. Raises LostLedger where it is missing, empty or another file."""
    try:
        connect_existing(path).close()
    except sqlite3.DatabaseError as error:
        raise LostLedger(path, str(error)) from error
