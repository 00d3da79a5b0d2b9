"""What a caller sends: identity, the parsed request, and hints from headers."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from .base import Value
from .usage import STANDARD_TERMS, PriceTerms


class Caller(Value, frozen=True, kw_only=True):
    """The authenticated caller; the secret itself is not kept.

    key: id of the API key
    team: the key's team
    org: the team's organization (the tenant)
    """

    key: str
    team: str
    org: str = "default"


class Splice(Value, frozen=True, kw_only=True):
    """Replace body[start:end] by `text`; start == end inserts."""

    start: int
    end: int
    text: bytes


# A raw field that is absent.
ABSENT = msgspec.Raw()
NO_PROVIDER_STATE: frozenset[str] = frozenset()


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message in the shape of chat completions; other dialects are mapped to it.

    tool_calls: raw until needed
    is_error: whether a tool's result is marked as a failure; None: not said
    """

    role: str
    content: str | list[Any] | None = None
    tool_calls: msgspec.Raw = ABSENT
    tool_call_id: Any = None
    is_error: Any = None
    thinking_blocks: msgspec.Raw = ABSENT


class PassThrough(Value, frozen=True, kw_only=True):
    """What of a pass-through request is not in its body.

    dialect: of the providers that may receive it
    is_free: none of them charges for it
    reports_usage: the response contains usage
    creates_object: it creates something that can be referred to by id
    names_object: its path has the id of a stored object
    response_id: the id of the stored response that its path names, "" for none
    model_in_json: the model's name is in a JSON body
    billed_units_max: (unit, count at most) where it is priced per unit rather than by tokens; `unit:quality:size` where
        the request names them
    """

    method: str
    path: str
    dialect: str
    is_free: bool
    reports_usage: bool = True
    creates_object: bool = False
    names_object: bool = False
    response_id: str = ""
    model_in_json: bool = True
    billed_units_max: tuple[str, int] | None = None


# Bytes of the tool definitions that are kept.
TOOLS_BYTES_MAX = 4096
# The size of a message whose content is a list of parts.
PARTS_SIZE = -1


class Request(Value, frozen=True, kw_only=True):
    """One parsed request.

    body: the caller's own bytes
    model_span: where the raw value of the top-level `model` is in `body`
    sizes: per message, characters of text; PARTS_SIZE where content is a list, 0 where there is none
    usage_splice: the edit that makes the provider report usage in a stream; None: no change needed
    max_output_tokens: per choice
    tools_head: the first TOOLS_BYTES_MAX of the offered tools, as sent
    provider_state: which PROVIDER_STATE_KINDS the history contains
    referenced_ids: ids of objects stored at a provider, `previous_response_id` among them
    attached_ids: ids of files, vector stores and containers at a provider that the request uses
    item_ids: ids of items of earlier answers that are stored at a provider, oldest first
    has_stored_prompt: the provider has a part of the prompt
    is_stored: the provider is to store the answer under its id
    is_background: the provider continues after it has responded
    previous_response_id: the response that this request continues
    conversation_id: the stored conversation that it belongs to
    user: the end user, as the caller names it
    session_fields: fields of the body that may name its session
    price_terms: what it asks for that changes its price beyond tokens
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
    attached_ids: tuple[str, ...] = ()
    item_ids: tuple[str, ...] = ()
    has_stored_prompt: bool = False
    is_stored: bool = False
    passthrough: PassThrough | None = None
    is_background: bool = False
    previous_response_id: str | None = None
    conversation_id: str = ""
    user: str = ""
    session_fields: Mapping[str, msgspec.Raw] = {}
    price_terms: PriceTerms = STANDARD_TERMS

    def __repr__(self) -> str:
        # Prompt text is never logged.
        return f"Request(model={self.model!r}, messages={len(self.messages)}, bytes={len(self.body)})"


# Parts of a history that only their maker can read. thinking: signed thinking blocks. unsigned_thinking: thinking of a
# deployment without signatures. encrypted_reasoning: sealed reasoning items. own_seal: those that our translation
# sealed. file: files by id. stored: items or responses by id.
PROVIDER_STATE_KINDS = ("thinking", "unsigned_thinking", "encrypted_reasoning", "own_seal", "file", "stored")


class HeaderHints(Value, frozen=True, kw_only=True):
    """What the headers say beyond the body; None: not said.

    session, session_source: the session, and the header that named it
    sub_agent: the sub-agent within the session
    caps_text: caps that the run sets itself
    is_repeat: the client repeats an earlier request
    parent, root: the session that started this one, and the root of its tree
    user: the end user
    role: the role of its agent
    deadline_ms: when the answer is needed, ms from now
    defer_seconds: how long it may wait for a greener hour; 0: not at all
    route: the route, where the body names no model
    headers: all headers, names in lower case, from which a provider receives those meant for it
    """

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
