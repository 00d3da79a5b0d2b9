"""The journal: one line appended before dialling (the hold) and one when the call ended (the fact).

An append is one write(2) without fsync: it survives the death of the process, not of the machine. Lines are
`{"hold": ...}` or `{"fact": ...}`; a torn last line is what a kill in the middle of a write leaves and is dropped.
Two generations of the file are kept: when one is full the next begins with the holds that are still open.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ..errors import Overloaded
from ..values.entry import Hold, LedgerEntry, expired

log = logging.getLogger(__name__)

# A generation is about 25,000 calls; replaying one takes well under a second.
GENERATION_BYTES_MAX = 32 * 1024 * 1024


class _Line(msgspec.Struct):
    hold: Hold | None = None
    fact: LedgerEntry | None = None


_LINE = msgspec.json.Decoder(_Line)
_encode = msgspec.json.Encoder().encode


class Journal:
    """Append-only file under `folder`; `recovered` holds what an earlier process left there."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._generation = max((int(path.stem) for path in self._files()), default=0)
        self._open: dict[str, Hold] = {}
        self._size = 0
        self._fd = -1

    def recover(self) -> list[LedgerEntry]:
        """What earlier processes left: every fact, and for every hold without one the hold itself, charged in full.

        The result may repeat what the ledger already has; its ids tell. Raises OSError.
        """
        holds: dict[str, Hold] = {}
        facts: dict[str, LedgerEntry] = {}
        for path in self._files():
            for line in _lines(path):
                if isinstance(line, Hold):
                    holds[line.id] = line
                else:
                    facts[line.id] = line
        return [*facts.values(), *(expired(hold) for key, hold in holds.items() if key not in facts)]

    def start(self) -> None:
        """Begin a fresh generation; the older ones stay until `forget_before`."""
        self._rotate()

    def hold(self, hold: Hold) -> None:
        """Write a hold down before dialling. Raises Overloaded if the file cannot be written."""
        try:
            self._append(b'{"hold":', hold)
        except OSError as error:
            raise Overloaded(f"The ledger cannot be written ({error.strerror}); no call is made unrecorded.") from error
        self._open[hold.id] = hold

    def fact(self, entry: LedgerEntry) -> None:
        """Write down how it ended. Raises OSError; the hold then stays in the file and in memory."""
        self._append(b'{"fact":', entry)
        self._open.pop(entry.id, None)
        if self._size > GENERATION_BYTES_MAX:
            self._rotate()

    @property
    def generation(self) -> int:
        """The number of the file that is being written."""
        return self._generation

    def forget_before(self, generation: int) -> None:
        """Everything in older generations is in the ledger by now."""
        for path in self._files():
            if int(path.stem) < generation:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; it is read again at the next start."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, opening: bytes, record: Hold | LedgerEntry) -> None:
        line = opening + _encode(record) + b"}\n"
        written = os.write(self._fd, line)
        self._size += written
        if written != len(line):
            # A short write leaves a torn line; a newline keeps it from swallowing the next one.
            os.write(self._fd, b"\n")
            raise OSError(28, "No space left on device")

    def _rotate(self) -> None:
        generation = self._generation + 1
        path = self._folder / f"{generation:08}.jsonl"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.close()
        self._fd, self._generation, self._size = fd, generation, 0
        for hold in self._open.values():
            self._append(b'{"hold":', hold)

    def _files(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.jsonl") if path.stem.isdigit())


def _lines(path: Path) -> Iterator[Hold | LedgerEntry]:
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            read = _LINE.decode(line)
        except msgspec.DecodeError:
            read = _Line()
        record = read.hold or read.fact
        if record is not None:
            yield record
        elif line.strip():
            log.warning("journal %s line %d is torn and was dropped", path.name, number)
