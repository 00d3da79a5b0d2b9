"""Translates chat answers to Messages, whole or chunk by chunk."""

from collections import deque
from typing import Any

from ...providers.streamed_answer import collect_chunk
from .. import lenient_json
from ..messages import UNSIGNED_SIGNATURE_PREFIX
from .answer_account import AccountedAnswer
from .chat_answer import ChatAnswerReader
from .chat_calls import ChatCall
from .fields import dropped, mapped, table
from .translated import TranslatedRequest
from .usage_objects import chat_to_messages_usage

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
ANSWER_FIELDS = table(
    mapped(
        content="`text` and `thinking` blocks, in their order",
        refusal="text; the stop reason is `refusal`",
        tool_calls="`tool_use` blocks, one after the other; each has an id and an input",
        function_call="a `tool_use` block",
        reasoning_content="a `thinking` block, if thinking was requested, else dropped",
        reasoning="the same",
        reasoning_text="the same",
        thinking="the same",
        reasoning_details="the same, where there is no text of these names; encrypted ones are dropped",
        thinking_blocks="the same, with their signatures",
        finish_reason="`stop_reason`, also of other APIs' names",
        usage="`usage`",
    ),
    dropped("answers hold no images", "images"),
    dropped("citations need the passage that Anthropic's search encrypts", "annotations", "context"),
    dropped("no counterpart", "audio", "citations", "search_results"),
)
# The text of a delta by its type.
_TEXT_FIELDS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


class _Block:
    """A content block of a stream: open, or waiting for the blocks before it to end.

    call: the call that it holds, None for text and thinking
    is_signed: its thinking has its signature, so nothing follows in it
    deltas: what waits with it
    """

    __slots__ = ("call", "deltas", "is_signed", "kind", "start")

    def __init__(self, start: dict[str, Any], call: ChatCall | None = None) -> None:
        self.kind, self.start, self.call = start["type"], start, call
        self.is_signed = False
        self.deltas: list[dict[str, Any]] = []

    def takes(self, kind: str, call: ChatCall | None) -> bool:
        """Whether a delta of this kind, or of this call, belongs to the block."""
        return self.call is call and self.kind == kind and not self.is_signed


class ChatToMessagesAnswer(AccountedAnswer):
    """Translates one answer. Blocks do not interleave: calls that do in chat follow each other."""

    def __init__(self, translated: TranslatedRequest, answer_id: str) -> None:
        super().__init__()
        self._id = f"msg_{answer_id}"
        self._model = str(translated.caller_document.get("model") or "")
        self._caller_tool = translated.caller_tool
        thinking = translated.caller_document.get("thinking")
        self._wants_thinking = isinstance(thinking, dict) and thinking.get("type") in ("enabled", "adaptive")
        self._reader = ChatAnswerReader(self, self._account, answer_id, ANSWER_FIELDS)
        self._answer: dict[str, Any] = {}
        self._events: list[dict[str, Any]] = []
        self._block_count = 0
        self._open: _Block | None = None
        self._waiting: deque[_Block] = deque()
        self._waiting_calls: dict[int, _Block] = {}
        self._is_started = self._is_refused = False

    def translate_document(self, document: dict[str, Any]) -> dict[str, Any]:
        """Translate an unstreamed answer."""
        self._answer = document
        self._reader.read_document(document)
        self._close_all()
        return {
            **self._message_head(),
            "content": _assembled_blocks(self._events),
            "stop_reason": self._stop_reason(),
            "usage": chat_to_messages_usage(self._answer),
        }

    def feed(self, payload: dict[str, Any]) -> list[dict[str, Any]]:
        """Translate one chunk to events."""
        collect_chunk(self._answer, payload)
        self._start()
        self._reader.read_chunk(payload)
        events, self._events = self._events, []
        return events

    def end(self) -> list[dict[str, Any]]:
        """Return the events that close the message."""
        self._start()
        self._close_all()
        delta = {"stop_reason": self._stop_reason(), "stop_sequence": None}
        usage = chat_to_messages_usage(self._answer)
        self._events.append({"type": "message_delta", "delta": delta, "usage": usage})
        self._events.append({"type": "message_stop"})
        return self._events

    def write_text(self, text: str) -> None:
        """Write text."""
        delta = {"type": "text_delta", "text": text}
        if self._open is not None and self._open.kind == "text" and not self._waiting:
            self._account.text_out += len(text)
            self._events.append({"type": "content_block_delta", "index": self._block_count - 1, "delta": delta})
        else:
            self._add("text", delta)

    def write_refusal(self, text: str) -> None:
        """Write a refusal, which in Messages is text with its own stop reason."""
        self._is_refused = True
        self.write_text(text)

    def write_thinking(self, text: str) -> None:
        """Write thinking, for a caller who asked for it."""
        if not self._wants_thinking:
            self._account.drop("reasoning", "reasoning (thinking was not requested)", text)
            return
        self._add("thinking", {"type": "thinking_delta", "thinking": text})

    def write_signed(self, block: dict[str, Any]) -> None:
        """Write the signature that ends a thinking block, or redacted thinking."""
        if not self._wants_thinking:
            return
        if block.get("type") == "redacted_thinking":
            self._put(_Block(block))
        else:
            self._add("thinking", {"type": "signature_delta", "signature": block["signature"]})

    def begin_call(self, call: ChatCall) -> None:
        """Begin a block for a call."""
        name = self._caller_tool(call.name).name
        self._put(_Block({"type": "tool_use", "id": call.id, "name": name, "input": {}}, call))

    def write_arguments(self, call: ChatCall, text: str) -> None:
        """Write arguments of a call."""
        self._add("tool_use", {"type": "input_json_delta", "partial_json": text}, call)

    def write_image(self, url: str) -> None:
        """Never called: images are dropped."""

    def write_citation(self, citation: dict[str, Any]) -> None:
        """Never called: citations are dropped."""

    def _message_head(self) -> dict[str, Any]:
        return {
            "id": self._id, "type": "message", "role": "assistant", "model": self._model,
            "stop_reason": None, "stop_sequence": None,
        }  # fmt: skip

    def _stop_reason(self) -> str:
        reason = _STOP_REASONS.get(self._reader.finish_reason, "end_turn")
        if reason == "end_turn" and self._is_refused:
            return "refusal"
        return "tool_use" if reason == "end_turn" and self._reader.has_calls else reason

    def _start(self) -> None:
        if not self._is_started:
            self._is_started = True
            usage = {**chat_to_messages_usage(self._answer), "output_tokens": 0}
            message = {**self._message_head(), "content": [], "usage": usage}
            self._events.append({"type": "message_start", "message": message})

    def _add(self, kind: str, delta: dict[str, Any], call: ChatCall | None = None) -> None:
        """Write a delta to its block if that is open, else keep it with the block."""
        if self._open is not None and self._open.takes(kind, call):
            self._write_delta(self._open, delta)
            if self._waiting:
                self._advance()
            return
        block = self._waiting_calls[call.number] if call is not None else self._waiting[-1] if self._waiting else None
        if block is None or not block.takes(kind, call):
            empty = {"type": kind, kind: ""} if kind == "text" else {"type": kind, kind: "", "signature": ""}
            block = _Block(empty)
            self._waiting.append(block)
        block.deltas.append(delta)
        block.is_signed = delta["type"] == "signature_delta"
        self._advance()

    def _put(self, block: _Block) -> None:
        """Add a block after those before it."""
        self._waiting.append(block)
        if block.call is not None:
            self._waiting_calls[block.call.number] = block
        self._advance()

    def _advance(self) -> None:
        """Open the blocks that wait, as far as those before them have ended."""
        while self._waiting and (self._open is None or self._open.call is None or self._open.call.is_complete):
            self._close()
            self._open_next()

    def _open_next(self) -> None:
        block = self._open = self._waiting.popleft()
        if block.call is not None:
            del self._waiting_calls[block.call.number]
            self._account.calls_out += 1
        self._events.append({"type": "content_block_start", "index": self._block_count, "content_block": block.start})
        self._block_count += 1
        for delta in block.deltas:
            self._write_delta(block, delta)
        block.deltas.clear()

    def _write_delta(self, block: _Block, delta: dict[str, Any]) -> None:
        if delta["type"] == "signature_delta":
            block.is_signed = True
        else:
            self._account.text_out += len(delta[_TEXT_FIELDS[delta["type"]]])
        self._events.append({"type": "content_block_delta", "index": self._block_count - 1, "delta": delta})

    def _close(self) -> None:
        """End the open block; thinking that no provider signed is signed by the gateway."""
        block, self._open = self._open, None
        if block is None:
            return
        if block.call is not None:
            block.call.is_closed = True
            if not block.call.pieces:
                no_arguments = {"type": "input_json_delta", "partial_json": "{}"}
                self._events.append(
                    {"type": "content_block_delta", "index": self._block_count - 1, "delta": no_arguments}
                )
        elif block.kind == "thinking" and not block.is_signed:
            self._write_delta(block, {"type": "signature_delta", "signature": UNSIGNED_SIGNATURE_PREFIX})
        self._events.append({"type": "content_block_stop", "index": self._block_count - 1})

    def _close_all(self) -> None:
        self._reader.end()
        self._account.is_closed = True
        self._close()
        while self._waiting:
            self._open_next()
            self._close()


def _assembled_blocks(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The content blocks that the events of a stream amount to."""
    blocks: list[dict[str, Any]] = []
    arguments = ""
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append(dict(event["content_block"]))
            arguments = ""
        elif event["type"] == "content_block_delta":
            delta, block = event["delta"], blocks[-1]
            if delta["type"] == "input_json_delta":
                arguments += delta["partial_json"]
                continue
            name = delta["type"].removesuffix("_delta")
            block[name] = block[name] + delta[name]
        elif blocks[-1]["type"] == "tool_use" and arguments:
            blocks[-1]["input"] = _tool_input(arguments)
    return blocks


def _tool_input(arguments: str) -> dict[str, Any]:
    """A call's arguments as an object; anything else is wrapped in one."""
    try:
        value = lenient_json.loads(arguments)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"invalid_arguments": arguments}
