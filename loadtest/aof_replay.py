"""Replays a Valkey append-only file in memory and checks every account after every transaction.

The file records a script's effects as one MULTI ... EXEC, so no intermediate state was ever visible: the check is
exhaustive, not a sample. Rewriting must be off, so that the file begins with an empty base and has every change.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import hiredis

_CHUNK_BYTES = 1 << 20
_IGNORED_COMMANDS = frozenset((b"SELECT", b"EXPIRE", b"PEXPIREAT", b"PERSIST", b"SCRIPT", b"FUNCTION"))
_AMOUNT_FIELDS = (b"spent", b"held", b"extra", b"grace", b"grace_until")


@dataclass
class Overrun:
    """A state in which an account exceeded its limit, in the unit of its measure."""

    account: str
    spent: int
    held: int
    limit: int
    transaction: int


@dataclass
class AofReplay:
    """The replayed state of a server, with peaks and violations.

    limit_of: limit of the account that a key names, None for a key that is no account
    hashes: fields by key
    booked_totals: all that was ever booked, by account, amounts outside the window included
    peaks: highest sum of spent and held, by account
    overruns: states over the limit
    transaction_count: transactions replayed
    checked_states: account states checked
    expired_holds: holds that expired
    """

    limit_of: Callable[[str], int | None]
    hashes: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    booked_totals: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    peaks: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    overruns: list[Overrun] = field(default_factory=list)
    transaction_count: int = 0
    checked_states: int = 0
    expired_holds: int = 0

    def replay_folder(self, folder: Path) -> "AofReplay":
        """Replay a server's data folder; may be called for several folders in order."""
        for file in incremental_files(folder):
            touched: set[str] = set()
            inside = False
            for parts in commands(file):
                name = parts[0].upper()
                if name == b"MULTI":
                    inside = True
                    continue
                if name == b"EXEC":
                    inside = False
                elif self._apply(name, parts):
                    touched.add(parts[1].decode())
                if not inside:
                    self._check_accounts(touched)
                    touched = set()
        return self

    def accounts(self) -> dict[str, dict[bytes, int]]:
        """Every account at the end, amounts only."""
        return {
            key: {name: int(value) for name, value in fields.items() if name in _AMOUNT_FIELDS}
            for key, fields in self.hashes.items()
            if self.limit_of(key) is not None
        }

    def open_holds(self) -> dict[str, dict[bytes, bytes]]:
        """The open holds by id."""
        holds = {}
        for key, fields in self.hashes.items():
            _, part, id = key.partition("}:hold:")
            if part and b"n" in fields and b"expired" not in fields:
                holds[id] = fields
        return holds

    def _apply(self, name: bytes, parts: list[bytes]) -> bool:
        """Apply one command; whether it changed a hash. Raises ValueError for an unknown command."""
        if name in _IGNORED_COMMANDS:
            return False
        key = parts[1].decode()
        if name in (b"HSET", b"HMSET"):
            fields = self.hashes.setdefault(key, {})
            fields.update(zip(parts[2::2], parts[3::2], strict=True))
            if b"expired" in parts[2::2] and "}:hold:" in key:
                self.expired_holds += 1
        elif name == b"HINCRBY":
            fields, amount = self.hashes.setdefault(key, {}), int(parts[3])
            fields[parts[2]] = b"%d" % (int(fields.get(parts[2], b"0")) + amount)
            if parts[2].startswith(b"b:") or (parts[2] == b"spent" and "|rolling" not in key):
                self.booked_totals[key] += amount
        elif name == b"HDEL":
            fields = self.hashes.get(key, {})
            for removed in parts[2:]:
                fields.pop(removed, None)
            if not fields:
                self.hashes.pop(key, None)
        elif name in (b"DEL", b"UNLINK"):
            for removed in parts[1:]:
                self.hashes.pop(removed.decode(), None)
        elif name in (b"FLUSHALL", b"FLUSHDB"):
            self.hashes.clear()
            return False
        elif name not in (b"SET", b"ZADD", b"ZREM", b"SADD", b"SREM"):
            raise ValueError(f"unknown command in the append-only file: {name!r}")
        return name[:1] == b"H"

    def _check_accounts(self, touched: set[str]) -> None:
        self.transaction_count += 1
        for key in touched:
            limit = self.limit_of(key)
            if limit is None:
                continue
            fields = self.hashes.get(key, {})
            spent, held = int(fields.get(b"spent", b"0")), int(fields.get(b"held", b"0"))
            # Grace depends on the time; these runs grant none.
            limit += int(fields.get(b"extra", b"0"))
            self.checked_states += 1
            self.peaks[key] = max(self.peaks[key], spent + held)
            if spent + held > limit or held < 0 or spent < 0:
                self.overruns.append(Overrun(key, spent, held, limit, self.transaction_count))


def incremental_files(folder: Path) -> list[Path]:
    """The incremental files in the order of the manifest. Raises ValueError if the base is not empty."""
    manifest = folder / "appendonlydir" / "appendonly.aof.manifest"
    numbered = []
    for line in manifest.read_text().splitlines():
        words = line.split()
        entry = dict(zip(words[::2], words[1::2], strict=True))
        path = manifest.parent / entry["file"]
        if entry["type"] == "b":
            # An empty base is a header and a checksum.
            if path.stat().st_size > 256:
                raise ValueError(
                    f"{path.name} is not empty: the append-only file was rewritten and its history is lost"
                )
        elif entry["type"] == "i":
            numbered.append((int(entry["seq"]), path))
    return [path for _, path in sorted(numbered)]


def commands(file: Path) -> Iterator[list[bytes]]:
    """Every command of one file; drops an incomplete last command, which a kill leaves."""
    reader = hiredis.Reader()
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            reader.feed(chunk)
            while (parts := reader.gets()) is not False:
                yield parts
