"""What a caller asks: who they are and what they sent, with the few fields that the gateway acts on."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from .base import Value


class Caller(Value, frozen=True, kw_only=True):
    """Who asks: the id of the key that was shown, the team it belongs to, and the organisation of that (the tenant).
    The secret itself is not kept."""

    key: str
    team: str
    org: str = "default"


class Splice(Value, frozen=True, kw_only=True):
    """Replace body[start:end] by `text`; start == end inserts."""

    start: int
    end: int
    text: bytes


# A raw part that was not given.
ABSENT = msgspec.Raw()
NO_PROVIDER_STATE: frozenset[str] = frozenset()


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message of the conversation in the shape of chat completions, to which the other dialects are mapped; what is
    not named here is not read. `tool_calls` stays raw until somebody asks; `is_error`: a tool's result that is marked as a
    failure (or not)."""

    role: str
    content: str | list[Any] | None = None
    tool_calls: msgspec.Raw = ABSENT
    tool_call_id: Any = None
    is_error: Any = None
    thinking_blocks: msgspec.Raw = ABSENT


class PassThrough(Value, frozen=True, kw_only=True):
    """What of a request that passes through is not in its body. `dialect` is that of the providers that may get it;
    `free` that none of them charges for it; `metered` that its answer says what it took; `creates` that it makes
    something that can be referred to by id; `quoted` that the model's name stands in JSON; `pieces` (unit, how many at
    most) of what is paid for by the piece."""

    method: str
    path: str
    dialect: str
    is_free: bool
    reports_usage: bool = True
    creates_object: bool = False
    model_in_json: bool = True
    pieces_max: tuple[str, int] | None = None


# So much of the tools' description is kept at hand.
TOOLS_BYTES_MAX = 4096
# The size of a message whose content is a list of parts.
SIZE_OF_PARTS = -1


class Request(Value, frozen=True, kw_only=True):
    """One parsed request. `body` stays the caller's own bytes.

    `model_span` is where the raw value of the top-level `model` lies in `body`. `usage_splice` is the edit that makes
    the provider report usage in a stream, None when nothing has to change. `max_output_tokens` is per choice. `sizes`
    follows `messages`: characters of text (PARTS where content is a list, 0 where it is none); taken once so that long
    histories need not be walked again.

    `tools` are the first TOOLS_BYTES of what describes the offered tools, as they were sent.

    `state` names what the history holds that only its maker can read (STATE_KINDS); `references` are ids of things that
    lie with a provider, `previous` among them the answer that this request continues, `conversation` the name of the
    conversation that it belongs to. `background`: the provider goes on with it after it has answered. `user` is the end
    user that the caller names, as it names it; `naming` the fields of the body that may name its session.
    """

    dialect: str
    body: bytes | bytearray
    model: str
    model_span: tuple[int, int]
    messages: Sequence[Message]
    sizes: Sequence[int]
    stream: bool
    wants_usage: bool
    usage_splice: Splice | None
    max_output_tokens: int | None
    choice_count: int
    tool_names: frozenset[str]
    has_schema: bool
    tools_head: bytes = b""
    provider_state: frozenset[str] = NO_PROVIDER_STATE
    referenced_ids: tuple[str, ...] = ()
    passthrough: PassThrough | None = None
    is_background: bool = False
    previous_response_id: str | None = None
    conversation_id: str = ""
    user: str = ""
    session_fields: Mapping[str, msgspec.Raw] = {}

    def __repr__(self) -> str:
        # Bodies hold prompts, which belong in no log.
        return f"Request(model={self.model!r}, messages={len(self.messages)}, bytes={len(self.body)})"


# thinking: signed thinking blocks. unsigned_thinking: thinking that a deployment without signatures wrote.
# encrypted_reasoning: sealed reasoning items; own_seal: those that a crossing sealed. file: files by id. stored: items or answers by id.
PROVIDER_STATE_KINDS = ("thinking", "unsigned_thinking", "encrypted_reasoning", "own_seal", "file", "stored")


class HeaderHints(Value, frozen=True, kw_only=True):
    """What the headers say beyond the body: the session (and which header said so), the sub-agent within it, what the
    run may take, that the request is `repeated`, the session that started it, the one at the head of its tree, the end
    user, the task type, the part its agent plays, by when the answer is wanted (ms from now), how long it may wait for a greener hour (0: not at all), the route where the body
    names no model; and all of them (names in lower case), from which a
    provider gets those meant for it."""

    session: str | None = None
    session_source: str = ""
    sub_agent: str | None = None
    caps_text: str | None = None
    is_repeat: bool = False
    parent: str | None = None
    root: str | None = None
    user: str | None = None
    task_type: str | None = None
    role: str | None = None
    deadline_ms: float | None = None
    defer_seconds: float | None = None
    route: str | None = None
    headers: Mapping[str, str] = {}
