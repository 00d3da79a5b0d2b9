"""The journal: a line before dialling (hold) and one after the call (entry).

An append is one write(2) without fsync: it survives a crash of the process, not of the machine. Lines are
`{"hold": ...}` or `{"fact": ...}`; a torn last line, left by a kill in the middle of a write, is dropped. When a
generation of the file is full, the next begins with the holds that are still open.
"""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ..values.errors import Overloaded
from ..values.ledger_entry import Hold, LedgerEntry, expired_entry
from .migrations import rename_keys_of_journal_line

log = logging.getLogger(__name__)

# A generation is about 25,000 calls; replaying one takes well under a second.
GENERATION_BYTES_MAX = 32 * 1024 * 1024
# As long as the longest lines: a byte may still fit where a line does not.
_PROBE = b"\n" * 4096


class _JournalLine(msgspec.Struct):
    hold: Hold | None = None
    fact: LedgerEntry | None = None


_LINE_DECODER = msgspec.json.Decoder(_JournalLine)
_encode = msgspec.json.Encoder().encode


class Journal:
    """Append-only file under `folder`; `recover` reads an earlier process's file.

    folder: where its files are
    generation_bytes_max: size from which the next file is begun
    """

    def __init__(self, folder: Path, generation_bytes_max: int = GENERATION_BYTES_MAX) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = self._folder = folder
        self._generation_bytes_max = generation_bytes_max
        self._generation = max((int(path.stem) for path in self._files()), default=0)
        self._open_holds: dict[str, Hold] = {}
        self._size_bytes = 0
        self._fd = -1
        self._lock_fd = -1
        self._last_line_torn = False

    def acquire_lock(self) -> None:
        """Lock the folder against other processes, once. Raises OSError if another one has it."""
        if self._lock_fd < 0:
            self._lock_fd = self._lock()

    def _lock(self) -> int:
        lock_fd = os.open(self._folder / "lock", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock_fd)
            raise OSError(error.errno, f"data folder {self._folder.parent} is in use by another gateway") from error
        return lock_fd

    @property
    def has_files(self) -> bool:
        """Whether a gateway has served from this data folder: a start leaves at least one file."""
        return bool(self._files())

    def recover(self) -> list[LedgerEntry]:
        """Ledger entries of earlier processes; an open hold is charged in full.

        The result may repeat entries that the ledger has; their ids are equal. Raises OSError.
        """
        holds: dict[str, Hold] = {}
        entries: dict[str, LedgerEntry] = {}
        for path in self._files():
            for line in _read_records(path):
                if isinstance(line, Hold):
                    holds[line.id] = line
                else:
                    entries[line.id] = line
        return [*entries.values(), *(expired_entry(hold) for key, hold in holds.items() if key not in entries)]

    def start(self) -> None:
        """Begin a new generation; older ones stay until `remove_before`."""
        self._rotate()

    @property
    def is_lost(self) -> bool:
        """Whether the file being written, or the lock, is not at its place: moved, deleted, or in another folder now."""
        return not (
            _is_file_at(self._fd, self._path(self._generation)) and _is_file_at(self._lock_fd, self._folder / "lock")
        )

    def begin_anew(self) -> None:
        """Begin a new file, with the open holds, in place of one that is lost. Raises OSError, without a data folder too."""
        self._folder.mkdir(exist_ok=True)
        if not _is_file_at(self._lock_fd, self._folder / "lock"):
            lost_fd, self._lock_fd = self._lock_fd, self._lock()
            os.close(lost_fd)
        self._rotate()

    def append_hold(self, hold: Hold) -> None:
        """Write a hold before dialling. Raises Overloaded if the file cannot be written."""
        try:
            self._append(b'{"hold":', hold)
        except OSError as error:
            raise Overloaded(f"Ledger not writable ({error.strerror}); no unrecorded call is made.") from error
        self._open_holds[hold.id] = hold

    def append_entry(self, entry: LedgerEntry) -> None:
        """Write the ledger entry of a hold. Raises OSError; the hold then stays open."""
        self._append(b'{"fact":', entry)
        self._open_holds.pop(entry.id, None)
        if self._size_bytes > self._generation_bytes_max:
            self._rotate()

    @property
    def generation(self) -> int:
        """The number of the file being written."""
        return self._generation

    def remove_before(self, generation: int) -> None:
        """Remove older generations, all of whose entries are in the ledger."""
        for path in self._files():
            if int(path.stem) < generation:
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    log.error("journal_file_removal_failed file=%s error=%s", path.name, error.strerror)

    def probe_writable(self) -> bool:
        """Whether a line of the usual length can be written; writes empty ones."""
        try:
            return os.write(self._fd, _PROBE) == len(_PROBE)
        except OSError:
            return False

    def close(self) -> None:
        """Close the file; the next start reads it."""
        for fd in (self._fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock_fd = -1

    def _append(self, opening: bytes, record: Hold | LedgerEntry) -> None:
        line = opening + _encode(record) + b"}\n"
        if self._last_line_torn:
            # End the line that a full disk cut off.
            line = b"\n" + line
        written = os.write(self._fd, line)
        self._size_bytes += written
        self._last_line_torn = written != len(line)
        if self._last_line_torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _rotate(self) -> None:
        """Begin the next file with the open holds, or keep the current one."""
        generation = self._generation + 1
        path = self._path(generation)
        open_lines = b"".join(b'{"hold":' + _encode(hold) + b"}\n" for hold in self._open_holds.values())
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        if os.write(fd, open_lines) != len(open_lines):
            os.close(fd)
            path.unlink(missing_ok=True)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._generation, self._size_bytes, self._last_line_torn = fd, generation, len(open_lines), False

    def _path(self, generation: int) -> Path:
        return self._folder / f"{generation:08}.jsonl"

    def _files(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.jsonl") if path.stem.isdigit())


def _is_file_at(fd: int, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False


def _read_records(path: Path) -> Iterator[Hold | LedgerEntry]:
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            parsed = _LINE_DECODER.decode(rename_keys_of_journal_line(line))
        except msgspec.DecodeError:
            parsed = _JournalLine()
        record = parsed.hold or parsed.fact
        if record is not None:
            yield record
        elif line.strip():
            log.warning("journal_line_unreadable file=%s line=%d action=dropped", path.name, number)
