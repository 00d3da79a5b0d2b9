"""Reads chat answers, whole or chunk by chunk, and passes their parts to a writer of another dialect.

Text, reasoning and calls come in many shapes from compatible servers: content as a string or as a list of parts, reasoning
under several names, calls that an index does not tell apart. Callers ask for one choice; servers that split text and calls into
two are read as one. Whatever has no counterpart is named in the account.
"""

from collections.abc import Iterator
from typing import Any, Protocol

from .. import lenient_json
from .answer_account import AnswerAccount
from .chat_calls import ChatCall, ChatCalls
from .fields import Table

# Names under which servers return reasoning text; where several are present, they repeat each other.
_REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_text", "thinking")
# Parts of `content` by type: the kind of text, and the field that holds it.
_TEXT_PARTS = {
    "text": ("text", "text"), "output_text": ("text", "text"), "refusal": ("refusal", "refusal"),
    "thinking": ("thinking", "thinking"), "reasoning": ("thinking", "reasoning"), "reasoning_content": ("thinking", "text"),
    "summary_text": ("thinking", "text"), "reasoning.text": ("thinking", "text"), "reasoning.summary": ("thinking", "summary"),
}  # fmt: skip
# Fields of a message by the kind of their loss, where the caller's dialect lacks them; any other is "other".
_LOSS_KINDS = {
    "images": "media", "audio": "media", "annotations": "citation", "citations": "citation", "search_results": "citation",
    "context": "citation", "executed_tools": "server_tool",
}  # fmt: skip
# What providers put beside the choices (Perplexity's sources).
_DOCUMENT_FIELDS = ("citations", "search_results")
_REASONING_NAMES = frozenset({*_REASONING_FIELDS, "reasoning_details", "thinking_blocks"})
_CALL_FIELDS = frozenset({"tool_calls", "function_call"})
_USUAL_FIELDS = frozenset(
    {
        "role", "content", "refusal", "tool_calls", "function_call", "thinking_blocks", "reasoning_details",
        *_REASONING_FIELDS,
    }
)  # fmt: skip
# Fields of a message that are no part of the answer: labels, and copies of what other fields hold.
_LABEL_FIELDS = frozenset(
    {
        "name", "id", "index", "logprobs", "provider_specific_fields", "content_filter_results", "channel", "token_id",
    }
)  # fmt: skip
# Finish reasons by OpenAI's names; others are those of other APIs, passed on by compatible servers.
FINISH_REASONS = {
    "stop": "stop", "length": "length", "tool_calls": "tool_calls", "function_call": "tool_calls",
    "content_filter": "content_filter", "max_tokens": "length", "model_length": "length", "max_output_tokens": "length",
    "tool_use": "tool_calls", "tool_call": "tool_calls", "safety": "content_filter", "recitation": "content_filter",
    "blocklist": "content_filter", "prohibited_content": "content_filter", "spii": "content_filter", "refusal": "content_filter",
}  # fmt: skip
# Which reason counts where choices are read as one.
_REASON_RANKS = {"": 0, "stop": 1, "content_filter": 2, "length": 3, "tool_calls": 4}
# Choices that are distinguished: the most that OpenAI's `n` allows (API reference, chat completions, 2026).
_CHOICES_MAX = 128


class ChatAnswerWriter(Protocol):
    """Writes the parts of an answer in another dialect, in the order of their arrival."""

    def write_text(self, text: str) -> None: ...
    def write_refusal(self, text: str) -> None: ...
    def write_thinking(self, text: str) -> None: ...
    def write_signed(self, block: dict[str, Any]) -> None:
        """Write the signature of the thinking before it, or redacted thinking, which comes whole."""
        ...

    def begin_call(self, call: ChatCall) -> None: ...
    def write_arguments(self, call: ChatCall, text: str) -> None: ...
    def write_image(self, url: str) -> None: ...
    def write_citation(self, citation: dict[str, Any]) -> None: ...


class _Choice:
    """One choice of an answer.

    calls: its calls
    has_delta: a delta of it said something, so a message of a later chunk repeats that
    """

    __slots__ = ("calls", "has_delta", "index")

    def __init__(self, index: int | str, calls: ChatCalls) -> None:
        self.index, self.calls = index, calls
        self.has_delta = False


class ChatAnswerReader:
    """Reads one answer; `finish_reason` is one of OpenAI's, "" until known.

    `fields` says what the writer's dialect has a counterpart for.
    """

    def __init__(self, writer: ChatAnswerWriter, account: AnswerAccount, answer_id: str, fields: Table) -> None:
        self.finish_reason = ""
        self._fields = fields
        self._writer, self._account = writer, account
        self._calls = ChatCalls(answer_id)
        self._joiners = {kind: lenient_json.TextJoiner() for kind in ("text", "refusal", "thinking")}
        self._text_joiner = self._joiners["text"]
        # Thinking since the last signature, and its characters; signed blocks repeat it.
        self._thinking: list[str] = []
        self._thinking_chars = 0
        # The choice that is read; the one whose text is passed on, and whose reasoning, once there is any.
        self._choice = _Choice(0, self._calls)
        self._choices: dict[int | str, _Choice] = {}
        self._text_choice: _Choice | None = None
        self._reasoning_choice: _Choice | None = None

    def read_document(self, document: dict[str, Any]) -> None:
        """Read an unstreamed answer."""
        self._note_lost_fields(document)
        choices = document.get("choices")
        for position, choice in enumerate(choices if isinstance(choices, list) else ()):
            if not isinstance(choice, dict) or not self._select(position):
                self._account.drop("text", "choices")
                continue
            message = choice.get("message")
            if message and isinstance(message, dict):
                self._read_share(message, is_whole=True)
            self._read_finish_reason(choice)

    def read_chunk(self, chunk: dict[str, Any]) -> None:
        """Read one chunk of a stream."""
        choices = chunk.get("choices")
        if not choices or not isinstance(choices, list):
            self._note_lost_fields(chunk)
            return
        for choice in choices:
            if not isinstance(choice, dict) or not self._select(choice.get("index")):
                self._account.drop("text", "choices")
                continue
            delta = choice.get("delta")
            if delta and isinstance(delta, dict):
                self._choice.has_delta = self._choice.has_delta or _says_something(delta)
                self._read_share(delta, is_whole=False)
            if not self._choice.has_delta and (message := _undelivered_message(choice)):
                self._read_share(message, is_whole=False)
            if choice.get("finish_reason"):
                self._read_finish_reason(choice)

    def end(self) -> None:
        """Pass on what waited for more: calls without a name, characters that were never completed."""
        for kind, joiner in self._joiners.items():
            if rest := joiner.end():
                self._write(kind, rest)
        for call in self._calls.calls:
            if rest := call.joiner.end():
                self._add_arguments(call, rest)
            if not call.is_begun:
                self._begin(call)

    @property
    def has_calls(self) -> bool:
        """Whether the answer calls a tool."""
        return bool(self._calls.calls)

    def _select(self, index: Any) -> bool:
        """Make the choice of this index the one that is read; no index is 0. False beyond the limit."""
        key = index if isinstance(index, int | str) else 0
        if key == self._choice.index and self._choices:
            return True
        choice = self._choices.get(key)
        if choice is None:
            if len(self._choices) >= _CHOICES_MAX:
                return False
            choice = _Choice(key, self._calls.sibling() if self._choices else self._calls)
            self._choices[key] = choice
        self._choice = choice
        return True

    def _read_finish_reason(self, choice: dict[str, Any]) -> None:
        """Read why a choice ended; of several, those count of which something was passed on."""
        if not (reason := choice.get("finish_reason")):
            return
        known = FINISH_REASONS.get(str(reason).lower(), "stop")
        if len(self._choices) > 1:
            is_passed_on = self._choice is self._text_choice or not self._choice.calls.is_empty
            if self.finish_reason and not is_passed_on:
                return
            if _REASON_RANKS[known] < _REASON_RANKS[self.finish_reason]:
                return
        self.finish_reason = known

    def _read_share(self, message: dict[str, Any], *, is_whole: bool) -> None:
        """Read a message or a delta, without what another choice has passed on already."""
        self._read(message if len(self._choices) == 1 else self._share_of(message), is_whole=is_whole)

    def _share_of(self, message: dict[str, Any]) -> dict[str, Any]:
        """The fields of one of several choices that are read: its calls, and what no other choice has."""
        kept = {}
        for name, value in message.items():
            is_reasoning = name in _REASONING_NAMES
            owner = self._reasoning_choice if is_reasoning else self._text_choice
            if owner is None or owner is self._choice or name in _CALL_FIELDS or _is_empty(value):
                kept[name] = value
            elif name != "role" and name not in _LABEL_FIELDS:
                kind = (
                    "reasoning" if is_reasoning else "text" if name in _USUAL_FIELDS else _LOSS_KINDS.get(name, "other")
                )
                self._account.drop(kind, "choices")
        return kept

    def _read(self, message: dict[str, Any], *, is_whole: bool) -> None:
        """Read a message or a delta."""
        if not _REASONING_NAMES.isdisjoint(message):
            self._read_reasoning(message)
        if content := message.get("content"):
            self._read_content(content)
            if len(message) == 1:
                return
        if refusal := message.get("refusal"):
            self._read_text("refusal", refusal, "refusal")
        if not _USUAL_FIELDS.issuperset(message):
            self._read_other(message)
        if calls := message.get("tool_calls"):
            self._read_calls(calls, is_whole)
        if not _is_empty(function := message.get("function_call")):
            self._read_calls([{"index": 0, "function": function}], is_whole)

    def _read_reasoning(self, message: dict[str, Any]) -> None:
        text = next((value for name in _REASONING_FIELDS if (value := message.get(name))), None)
        details, blocks = message.get("reasoning_details"), message.get("thinking_blocks")
        if text is not None:
            self._read_text("thinking", text, "reasoning")
        elif isinstance(details, list) and not isinstance(blocks, list):
            for detail in details:
                self._read_part(detail, "reasoning_details")
        for block in blocks if isinstance(blocks, list) else ():
            self._read_thinking_block(block, has_text=text is not None)

    def _read_thinking_block(self, block: Any, *, has_text: bool) -> None:
        """Read a block in Anthropic's shape, signed or not yet (litellm's extension of chat completions)."""
        if not isinstance(block, dict):
            self._account.drop("reasoning", "thinking_blocks")
            return
        text = block.get("thinking")
        if not has_text and text and isinstance(text, str):
            # A block may hold the text since the last one, or all of it again.
            is_repeated = len(text) >= self._thinking_chars and text.startswith("".join(self._thinking))
            self._read_text("thinking", text[self._thinking_chars :] if is_repeated else text, "thinking_blocks")
        if block.get("signature") and not text:
            block = {**block, "thinking": "".join(self._thinking)}
        if block.get("signature") or block.get("data"):
            self._thinking.clear()
            self._thinking_chars = 0
            self._writer.write_signed(block)

    def _read_content(self, content: Any) -> None:
        if isinstance(content, str):
            if text := self._text_joiner.join(content):
                self._account.text_in += len(text)
                self._text_choice = self._choice
                self._writer.write_text(text)
        else:
            for part in content if isinstance(content, list) else [content]:
                self._read_part(part, "content")

    def _read_part(self, part: Any, path: str) -> None:
        """Read a part of `content`, or a detail of reasoning."""
        if isinstance(part, str):
            self._read_text("text", part, path)
            return
        kind = str(part.get("type")) if isinstance(part, dict) else "invalid"
        if kind in _TEXT_PARTS:
            text_kind, name = _TEXT_PARTS[kind]
            value = next((part[field] for field in (name, "text", "summary", "content") if part.get(field)), "")
            self._read_text(text_kind, value, f"{path}.{kind}")
            if text_kind == "thinking" and part.get("signature"):
                self._read_thinking_block({"type": "thinking", "signature": part["signature"]}, has_text=True)
        elif kind == "image_url" and self._fields["images"].handling != "dropped":
            self._read_image(part)
        elif kind == "redacted_thinking":
            self._read_thinking_block(part, has_text=True)
        else:
            self._account.drop(_loss_kind_of(kind), f"{path}.{kind}")

    def _read_text(self, kind: str, value: Any, path: str) -> None:
        """Pass on text: a string, or a list of parts with text (Mistral's and Databricks' reasoning)."""
        if isinstance(value, str):
            if value:
                self._write(kind, self._joiners[kind].join(value))
            return
        for part in value if isinstance(value, list) else [value]:
            text = part.get("text") if isinstance(part, dict) else part
            if isinstance(text, str):
                self._read_text(kind, text, path)
            else:
                self._account.drop("text" if kind == "text" else "reasoning", path)
            if isinstance(part, dict) and kind == "thinking" and part.get("signature"):
                self._read_thinking_block({"type": "thinking", "signature": part["signature"]}, has_text=True)

    def _write(self, kind: str, text: str) -> None:
        if not text:
            return
        self._account.text_in += len(text)
        if kind != "thinking":
            self._text_choice = self._choice
        if kind == "text":
            self._writer.write_text(text)
        elif kind == "thinking":
            self._reasoning_choice = self._choice
            self._thinking.append(text)
            self._thinking_chars += len(text)
            self._writer.write_thinking(text)
        else:
            self._writer.write_refusal(text)

    def _read_calls(self, entries: Any, is_whole: bool) -> None:
        entries, calls = entries if isinstance(entries, list) else [entries], self._choice.calls
        for position, entry in enumerate(entries):
            if not isinstance(entry, dict) or not isinstance(entry.get("function", {}), dict | None):
                self._account.drop("call", "tool_calls")
                continue
            if entry.get("type") not in (None, "", "function"):
                self._account.drop("call", f"tool_calls.{entry['type']}")
                continue
            call = calls.add(entry) if is_whole else calls.find(entry, position, len(entries))
            if call is None:
                continue
            for piece in _arguments_of(entry):
                self._add_arguments(call, call.joiner.join(piece))
            if call.name and not call.is_begun:
                self._begin(call)

    def _add_arguments(self, call: ChatCall, text: str) -> None:
        if not call.accepts(text):
            if text.strip() and not call.has_empty_arguments:
                self._account.drop("call", "tool_calls.arguments")
            return
        self._account.text_in += len(text)
        if call.is_begun:
            self._writer.write_arguments(call, text)

    def _begin(self, call: ChatCall) -> None:
        """Pass on a call, with the arguments that came before its name."""
        self._account.calls_in += 1
        self._calls.begin(call)
        self._writer.begin_call(call)
        if call.pieces:
            self._writer.write_arguments(call, "".join(call.pieces))

    def _read_other(self, message: dict[str, Any]) -> None:
        """Read images and citations; name every field without a counterpart."""
        for name in sorted(message.keys() - _USUAL_FIELDS - _LABEL_FIELDS):
            value, field = message[name], self._fields.get(name)
            if _is_empty(value):
                continue
            if field is None or field.handling == "dropped":
                self._account.drop(_LOSS_KINDS.get(name, "other"), f"message.{name}")
                continue
            for entry in value if isinstance(value, list) else [value]:
                if name == "images":
                    self._read_image(entry)
                elif isinstance(entry, dict):
                    self._writer.write_citation(entry)
                else:
                    self._account.drop("citation", f"message.{name}")

    def _read_image(self, part: Any) -> None:
        image = part.get("image_url") if isinstance(part, dict) else part
        url = image.get("url") if isinstance(image, dict) else image
        if isinstance(url, str):
            self._writer.write_image(url)
        else:
            self._account.drop("media", "image_url")

    def _note_lost_fields(self, document: dict[str, Any]) -> None:
        """Name what is beside the choices."""
        for name in _DOCUMENT_FIELDS:
            if document.get(name):
                self._account.drop(_LOSS_KINDS[name], name)


def _arguments_of(entry: dict[str, Any]) -> Iterator[str]:
    """The arguments in an entry: a text, or an object, which some servers send unencoded."""
    arguments = (entry.get("function") or {}).get("arguments")
    if isinstance(arguments, str):
        if arguments:
            yield arguments
    elif arguments is not None:
        yield lenient_json.dumps(arguments).decode()


def _says_something(delta: dict[str, Any]) -> bool:
    """Whether a delta holds a part of the answer."""
    return any(name != "role" and not _is_empty(value) for name, value in delta.items())


def _undelivered_message(choice: dict[str, Any]) -> dict[str, Any]:
    """What a chunk has instead of a delta: a message, or a text as in completions."""
    message, text = choice.get("message"), choice.get("text")
    if message and isinstance(message, dict):
        return message
    return {"content": text} if text and isinstance(text, str) else {}


def _is_empty(value: Any) -> bool:
    """Whether a value says nothing; some servers send every field of the protocol, filled with empty ones."""
    if isinstance(value, dict):
        return all(map(_is_empty, value.values()))
    return not value


def _loss_kind_of(part_type: str) -> str:
    """The kind of loss of a part with no counterpart."""
    if "audio" in part_type or "image" in part_type or "file" in part_type or "video" in part_type:
        return "media"
    if "reference" in part_type or "citation" in part_type:
        return "citation"
    if "tool" in part_type:
        return "call"
    return "reasoning" if "reasoning" in part_type or "thinking" in part_type else "other"
