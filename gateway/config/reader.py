"""One routing file while it is read: its tree, its secrets, and what was found wrong with it so far."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path as FilePath
from typing import Any

from ..values.units import usd_to_nusd
from . import schema
from .yaml_tree import YamlPath, YamlTree


@dataclass(slots=True)
class ConfigReader:
    """One file being read: its tree, and what was found wrong with it so far."""

    name: str
    tree: YamlTree
    env: Mapping[str, str]
    need_secrets: bool
    complaints: list[tuple[int, int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def complain(self, path: YamlPath, sentence: str, *, at_key: bool = False) -> None:
        """Remember a mistake at `path`."""
        place = self.tree.key_positions.get(path) if at_key else None
        self.complaints.append((*(place or self.tree.position(path)), sentence))

    def raw_section(self, name: str) -> dict[str, Any]:
        """A section of the file as it stands, right or wrong in its details."""
        found = self.tree.data.get(name) if isinstance(self.tree.data, dict) else None
        return found if isinstance(found, dict) else {}

    def note(self, path: YamlPath, sentence: str) -> None:
        """Remember something worth saying that is no mistake."""
        line, column = self.tree.position(path)
        self.notes.append(f"{self.name}:{line}:{column}: {sentence}")

    def secret(self, ref: schema.SecretRefConfig, path: YamlPath) -> str | None:
        """What a reference points to. Never part of a message."""
        if (ref.env is None) == (ref.file is None):
            self.complain(path, "give exactly one of {env: NAME} or {file: path}")
            return None
        value = self.env.get(ref.env) if ref.env is not None else _read_file(ref.file or "")
        if value:
            return value
        what = (
            f"environment variable {ref.env} is not set" if ref.env else f"file {ref.file} cannot be read or is empty"
        )
        if self.need_secrets:
            self.complain(path, f"{what}; the secret it should hold is needed to start")
        else:
            self.note(path, what)
        return None


def to_nusd(reader: ConfigReader, usd: Decimal, path: YamlPath) -> int:
    """Dollars in nUSD; complains about what is finer."""
    try:
        return usd_to_nusd(usd)
    except ValueError:
        reader.complain(path, f"{usd} USD is finer than a nano-dollar; use at most nine decimals")
        return 0


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence that names what was probably meant."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def _read_file(path: str) -> str | None:
    try:
        return FilePath(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
