"""A routing file while it is read: its tree, its secrets, and the problems found so far."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path as FilePath
from typing import Any, Literal

from ..values.quality import OTHER_TASK_TYPE
from ..values.units import usd_to_nusd
from . import schema
from .redaction import is_path, is_variable_name, looks_like_secret, without_secrets
from .yaml_tree import YamlPath, YamlTree

# What is made of a secret that can be guessed.
WeakSecrets = Literal["ignored", "note", "problem"]
# Below this even a random secret can be guessed: 16 hex digits are 64 bits.
SECRET_CHARS_MIN = 16
_SHORT_SECRET = f"secret has fewer than {SECRET_CHARS_MIN} characters and can be guessed; use a random one, like `openssl rand -hex 32`"
# What a shell can set; everything else in `env` was meant as the secret itself.
_SETTABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(slots=True)
class ConfigReader:
    """A routing file that is being read.

    name: the file's name, as messages show it
    tree: the document with its positions
    env: environment variables that secrets may refer to
    need_secrets: whether a missing secret is a problem, or only a note
    weak_secrets: whether a secret that can be guessed is a problem, a note, or ignored
    problems: (line, column, message) of each mistake
    notes: messages about what works but may surprise
    is_strict: whether what a budget would always refuse is a problem, or only a note
    placeholder_env: name that replaces literal secrets, which are problems already; None if there are none
    removed_items: (path of a list, index) of each invalid item that was removed, in the order of removal
    """

    name: str
    tree: YamlTree
    env: Mapping[str, str]
    need_secrets: bool
    weak_secrets: WeakSecrets = "ignored"
    problems: list[tuple[int, int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    placeholder_env: str | None = None
    removed_items: list[tuple[YamlPath, int]] = field(default_factory=list)
    is_strict: bool = False

    def add_problem(self, path: YamlPath, message: str, *, at_key: bool = False) -> None:
        """Record a mistake at the value of `path`, or at its key."""
        path = self._path_in_file(path)
        position = self.tree.key_positions.get(path) if at_key else None
        self.problems.append((*(position or self.tree.position(path)), without_secrets(message)))

    def add_note(self, path: YamlPath, message: str) -> None:
        """Record what is no mistake but may surprise."""
        line, column = self.tree.position(self._path_in_file(path))
        self.notes.append(f"{self.name}:{line}:{column}: {without_secrets(message)}")

    def check_secret(self, secret: str, path: YamlPath) -> None:
        """Report a secret of callers or receivers that is too short."""
        if len(secret) >= SECRET_CHARS_MIN:
            return
        if self.weak_secrets == "problem":
            self.add_problem(path, _SHORT_SECRET)
        elif self.weak_secrets == "note":
            self.add_note(path, _SHORT_SECRET)

    def _path_in_file(self, path: YamlPath) -> YamlPath:
        """The path in the file of a path in what is left of it: removed items have shifted those behind them."""
        for removed, index in reversed(self.removed_items):
            at = len(removed)
            if path[:at] == removed and len(path) > at and isinstance(path[at], int) and path[at] >= index:  # type: ignore[operator]
                path = (*removed, path[at] + 1, *path[at + 1 :])  # type: ignore[operator]
        return path

    def add_refusal(self, path: YamlPath, message: str) -> None:
        """Record what starts but never serves."""
        if self.is_strict:
            self.add_problem(path, message)
        else:
            self.add_note(path, message)

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
        value = self.secret_value(env=ref.env, file=ref.file)
        if value is not None:
            return value
        if ref.env is not None and (_SETTABLE.fullmatch(ref.env) is None or looks_like_secret(ref.env)):
            self.add_problem(
                path, "'env' must be the name of an environment variable, like OPENAI_API_KEY, not the secret itself"
            )
            return None
        if ref.file is not None and looks_like_secret(ref.file):
            self.add_problem(path, "'file' must be the path of a readable file, not the secret itself")
            return None
        fact = _missing_env(ref.env) if ref.env is not None else _missing_file(ref.file or "")
        if self.need_secrets:
            self.add_problem(path, f"{fact}; it must hold the secret")
        else:
            self.add_note(path, fact)
        return None

    def secret_value(self, *, env: str | None, file: str | None) -> str | None:
        """The value behind a reference, without white space around it; None where there is none."""
        value = self.env.get(env, "") if env is not None else _read_file(file or "")
        return value.strip() or None


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


def _missing_env(name: str) -> str:
    if is_variable_name(name):
        return f"environment variable {name} is not set"
    return "environment variable is not set (its name is not shown, because it may be a secret)"


def _missing_file(path: str) -> str:
    if is_path(path):
        return f"file {path} cannot be read or is empty"
    return "file cannot be read or is empty (its name is not shown, because it may be a secret)"


def _read_file(path: str) -> str:
    try:
        return FilePath(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError):
        return ""
