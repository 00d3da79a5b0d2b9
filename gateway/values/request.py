"""What a caller asks: who they are and what they sent, with the few fields that the gateway acts on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks: the id of the key that was shown, and the team it belongs to. The secret itself is not kept."""

    key: str
    team: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Splice:
    """Replace body[start:end] by `text`; start == end inserts."""

    start: int
    end: int
    text: bytes


# The size of a message whose content is a list of parts.
PARTS = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One parsed request. `body` stays the caller's own bytes; `document` is its parsed form, to be read only.

    `model_span` is where the raw value of the top-level `model` lies in `body`. `usage_splice` is the edit that makes
    the provider report usage in a stream, None when nothing has to change. `max_output_tokens` is per choice. `roles`
    and `sizes` follow `messages`: who spoke, and characters of text (PARTS where content is a list, 0 where it is none);
    they are taken once so that long histories need not be walked again.
    """

    dialect: str
    body: bytes = field(repr=False)
    document: Mapping[str, Any] = field(repr=False)
    model: str
    model_span: tuple[int, int]
    messages: Sequence[Mapping[str, Any]] = field(repr=False)
    roles: Sequence[str] = field(repr=False)
    sizes: Sequence[int] = field(repr=False)
    stream: bool
    wants_usage: bool
    usage_splice: Splice | None
    max_output_tokens: int | None
    choices: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What the headers say beyond the body: the session (and which header said so), the task type, and the headers
    that are passed on to the provider."""

    session: str | None = None
    session_source: str = ""
    task_type: str | None = None
    forward: Mapping[str, str] = field(default_factory=dict, repr=False)
