"""Replays a Valkey append-only file in memory and looks at every account after every transaction.

A script's effects stand in the file as one MULTI ... EXEC, so that nothing between them was ever visible: the check is
exhaustive, not a sample. Rewriting must be off, so that the file begins with an empty base and holds every change.
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
    """An instant at which an account was over its limit."""

    account: str
    spent: int
    held: int
    limit: int
    transaction: int


@dataclass
class AofReplay:
    """What a server's life came to. `limit_of` gives an account's ceiling by its key, None for what is no account.

    `booked`: what was ever booked on an account, what has left its window included. `peaks`: the most that spent and
    held ever were. `over`: every violation.
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
        """Replay what a server left in its folder; may be called for one folder after another."""
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
        """Every account as it stands at the end, figures only."""
        return {
            key: {name: int(value) for name, value in fields.items() if name in _AMOUNT_FIELDS}
            for key, fields in self.hashes.items()
            if self.limit_of(key) is not None
        }

    def open_holds(self) -> dict[str, dict[bytes, bytes]]:
        """The holds that are still open, by their id."""
        found = {}
        for key, fields in self.hashes.items():
            _, part, id = key.partition("}:hold:")
            if part and b"n" in fields and b"expired" not in fields:
                found[id] = fields
        return found

    def _apply(self, name: bytes, parts: list[bytes]) -> bool:
        """Whether a hash was changed."""
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
            for gone in parts[2:]:
                fields.pop(gone, None)
            if not fields:
                self.hashes.pop(key, None)
        elif name in (b"DEL", b"UNLINK"):
            for gone in parts[1:]:
                self.hashes.pop(gone.decode(), None)
        elif name in (b"FLUSHALL", b"FLUSHDB"):
            self.hashes.clear()
            return False
        elif name not in (b"SET", b"ZADD", b"ZREM", b"SADD", b"SREM"):
            raise ValueError(f"the replay does not know {name!r}")
        return name[:1] == b"H"

    def _check_accounts(self, touched: set[str]) -> None:
        self.transaction_count += 1
        for key in touched:
            limit = self.limit_of(key)
            if limit is None:
                continue
            fields = self.hashes.get(key, {})
            spent, held = int(fields.get(b"spent", b"0")), int(fields.get(b"held", b"0"))
            # Grace would need the time; these runs grant none.
            limit += int(fields.get(b"extra", b"0"))
            self.checked_states += 1
            self.peaks[key] = max(self.peaks[key], spent + held)
            if spent + held > limit or held < 0 or spent < 0:
                self.overruns.append(Overrun(key, spent, held, limit, self.transaction_count))


def incremental_files(folder: Path) -> list[Path]:
    """The incremental files in the order of the manifest. Raises ValueError if the base holds anything."""
    manifest = folder / "appendonlydir" / "appendonly.aof.manifest"
    found = []
    for line in manifest.read_text().splitlines():
        words = line.split()
        named = dict(zip(words[::2], words[1::2], strict=True))
        path = manifest.parent / named["file"]
        if named["type"] == "b":
            # An empty base is a header and a checksum.
            if path.stat().st_size > 256:
                raise ValueError(f"{path.name} is not empty: the file was rewritten, and its history is lost")
        elif named["type"] == "i":
            found.append((int(named["seq"]), path))
    return [path for _, path in sorted(found)]


def commands(file: Path) -> Iterator[list[bytes]]:
    """Every command of one file; a torn last one is what a kill leaves and is dropped."""
    reader = hiredis.Reader()
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            reader.feed(chunk)
            while (parts := reader.gets()) is not False:
                yield parts
