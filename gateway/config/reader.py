"""A routing file while it is read: its tree, its secrets, and the problems found so far."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path as FilePath
from typing import Any

from ..values.quality import OTHER_TASK_TYPE
from ..values.units import usd_to_nusd
from . import schema
from .yaml_tree import YamlPath, YamlTree


@dataclass(slots=True)
class ConfigReader:
    """A routing file that is being read.

    name: the file's name, as messages show it
    tree: the document with its positions
    env: environment variables that secrets may refer to
    need_secrets: whether a missing secret is a problem, or only a note
    problems: (line, column, message) of each mistake
    notes: messages about what works but may surprise
    placeholder_env: name that replaces literal secrets, which are problems already; None if there are none
    """

    name: str
    tree: YamlTree
    env: Mapping[str, str]
    need_secrets: bool
    problems: list[tuple[int, int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    placeholder_env: str | None = None

    def add_problem(self, path: YamlPath, message: str, *, at_key: bool = False) -> None:
        """Record a mistake at the value of `path`, or at its key."""
        position = self.tree.key_positions.get(path) if at_key else None
        self.problems.append((*(position or self.tree.position(path)), message))

    def add_note(self, path: YamlPath, message: str) -> None:
        """Record what is no mistake but may surprise."""
        line, column = self.tree.position(path)
        self.notes.append(f"{self.name}:{line}:{column}: {message}")

    def raw_section(self, name: str) -> dict[str, Any]:
        """A top-level mapping of the file before validation; empty where there is none."""
        section = self.tree.data.get(name) if isinstance(self.tree.data, dict) else None
        return section if isinstance(section, dict) else {}

    def secret(self, ref: schema.SecretRefConfig, path: YamlPath) -> str | None:
        """The secret that a reference points to; None, with a problem or a note, where there is none."""
        if ref.env is not None and ref.env == self.placeholder_env:
            return None
        if (ref.env is None) == (ref.file is None):
            self.add_problem(path, "secret must have exactly one of {env: NAME} and {file: path}")
            return None
        value = self.env.get(ref.env) if ref.env is not None else _read_file(ref.file or "")
        if value:
            return value
        fact = (
            f"environment variable {ref.env} is not set" if ref.env else f"file {ref.file} cannot be read or is empty"
        )
        if self.need_secrets:
            self.add_problem(path, f"{fact}; it must hold the secret")
        else:
            self.add_note(path, fact)
        return None


def to_nusd(reader: ConfigReader, usd: Decimal, path: YamlPath) -> int:
    """US dollars in nUSD; finer amounts are a problem."""
    try:
        return usd_to_nusd(usd)
    except ValueError:
        reader.add_problem(path, f"{usd:f} USD is finer than a nano-dollar; use at most nine decimals")
        return 0


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """The end of a message that suggests the closest name; empty where none is close."""
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def check_task_type(reader: ConfigReader, name: str, names: Collection[str], path: YamlPath) -> None:
    """Record a problem unless the task type is one of the file's or `other`."""
    check_name(reader, "task type", name, {*names, OTHER_TASK_TYPE}, path)


def check_name(reader: ConfigReader, kind: str, name: str, names: Collection[str], path: YamlPath) -> None:
    """Record a problem unless `name` is one of `names`."""
    if name not in names:
        reader.add_problem(path, f"unknown {kind} '{name}'{did_you_mean(name, names)}")


def _read_file(path: str) -> str | None:
    try:
        return FilePath(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
