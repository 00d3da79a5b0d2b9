"""Translates Messages answers to chat completions, whole or event by event."""

from typing import Any

from ...providers.streamed_answer import collect_event
from .. import lenient_json
from .answer_account import AccountedAnswer
from .chat_calls import ChatCall, ChatCalls
from .fields import dropped, mapped, table
from .translated import TranslatedRequest
from .usage_objects import messages_to_chat_usage

# Tool used for response_format json_object: Anthropic's structured output needs a schema.
JSON_TOOL_NAME = "json_answer"
_FINISH_REASONS = {
    "end_turn": "stop", "stop_sequence": "stop", "pause_turn": "stop", "max_tokens": "length",
    "model_context_window_exceeded": "length", "tool_use": "tool_calls", "refusal": "content_filter",
}  # fmt: skip
# Content blocks by their type.
ANSWER_FIELDS = table(
    mapped(
        text="`content`; citations of web pages are `annotations`, others are dropped",
        tool_use="`tool_calls`; each has an id and arguments",
        thinking="`reasoning_content` and, with its signature, `thinking_blocks`",
        redacted_thinking="`thinking_blocks`",
        stop_reason="`finish_reason`; the explanation of a refusal is `refusal`",
        usage="`usage`",
    ),
    dropped(
        "it ran at Anthropic", "server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result",
        "bash_code_execution_tool_result", "text_editor_code_execution_tool_result", "tool_search_tool_result", "mcp_tool_use",
        "mcp_tool_result", "container_upload", "compaction",
    ),
)  # fmt: skip
_READ_TYPES = frozenset(name for name, field in ANSWER_FIELDS.items() if field.handling == "mapped")
# Deltas by the block that they begin where a server sent none.
_BLOCK_TYPES = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "thinking"}


class _Block:
    """An open content block.

    document: as it began; of thinking, what the caller has to send back
    call: the call that it holds, None for other blocks
    thinking: its text so far
    joiner: joins characters that deltas split
    """

    __slots__ = ("call", "document", "joiner", "kind", "thinking")

    def __init__(self, document: dict[str, Any]) -> None:
        self.document, self.kind = document, str(document.get("type"))
        self.call: ChatCall | None = None
        self.thinking: list[str] = []
        self.joiner = lenient_json.TextJoiner()


class MessagesToChatAnswer(AccountedAnswer):
    """Translates one answer."""

    def __init__(self, translated: TranslatedRequest, answer_id: str, created: int) -> None:
        super().__init__()
        request = translated.caller_document
        self._head = {"id": f"chatcmpl-{answer_id}", "created": created, "model": str(request.get("model") or "")}
        self._caller_tool = translated.caller_tool
        options = request.get("stream_options")
        self._wants_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        self._json_tool_forced = (translated.document.get("tool_choice") or {}).get("name") == JSON_TOOL_NAME
        self._calls = ChatCalls(answer_id)
        self._blocks: dict[Any, _Block] = {}
        self._deltas: list[dict[str, Any]] = []
        self._answer: dict[str, Any] = {}
        self._stop_reason = ""
        self._content_chars = 0
        self._is_finished = False

    def translate_document(self, document: dict[str, Any]) -> dict[str, Any]:
        """Translate an unstreamed answer, as a stream of whole blocks."""
        content = document.get("content")
        for index, block in enumerate(
            [{"type": "text", "text": content}] if isinstance(content, str) else content or ()
        ):
            self._start_block(index, block)
            self._stop_block(index)
        self._read_stop(document)
        self._account.is_closed = True
        message = _assembled_message(self._deltas)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish_reason()}
        usage = messages_to_chat_usage(document)
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage}

    def feed(self, payload: dict[str, Any]) -> list[dict[str, Any]]:
        """Translate one event to chunks."""
        kind, index = payload.get("type"), payload.get("index", 0)
        collect_event(self._answer, payload)
        if kind == "content_block_delta":
            self._read_delta(index, payload.get("delta") or {})
        elif kind == "content_block_start":
            self._start_block(index, payload.get("content_block") or {})
        elif kind == "content_block_stop":
            self._stop_block(index)
        elif kind == "message_start":
            self._deltas.append({"role": "assistant", "content": ""})
        elif kind == "message_delta":
            self._read_stop(payload.get("delta") or {})
            return self._finish() if self._stop_reason else self._chunks()
        return self._chunks()

    def end(self) -> list[dict[str, Any]]:
        """Return the finish reason, if none was sent, and the usage chunk, if requested."""
        chunks = self._finish()
        if self._wants_usage:
            usage = messages_to_chat_usage(self._answer)
            chunks.append({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        return chunks

    def _finish(self) -> list[dict[str, Any]]:
        """The chunks of blocks that never ended, and the finish reason, once."""
        if self._is_finished:
            return self._chunks()
        self._is_finished = self._account.is_closed = True
        for index in list(self._blocks):
            self._stop_block(index)
        return [*self._chunks(), self._chunk({}, self._finish_reason())]

    def _finish_reason(self) -> str:
        reason = _FINISH_REASONS.get(self._stop_reason, "stop")
        if self._json_tool_forced:
            return "stop" if reason == "tool_calls" else reason
        return "tool_calls" if reason == "stop" and self._calls.calls else reason

    def _chunks(self) -> list[dict[str, Any]]:
        chunks = [self._chunk(delta) for delta in self._deltas]
        self._deltas.clear()
        return chunks

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        return {**chunk, "usage": None} if self._wants_usage else chunk

    def _read_stop(self, delta: dict[str, Any]) -> None:
        """Read why the answer ended, and how a refusal is explained."""
        self._stop_reason = str(delta.get("stop_reason") or self._stop_reason)
        details = delta.get("stop_details")
        explanation = details.get("explanation") if isinstance(details, dict) else None
        if isinstance(explanation, str) and explanation:
            self._deltas.append({"refusal": explanation})

    def _start_block(self, index: Any, document: dict[str, Any]) -> None:
        """Begin a block; in an unstreamed answer it holds all of its content."""
        block = self._blocks[index] = _Block(document)
        if block.kind == "text":
            self._write_text(block, "content", document.get("text"))
            for citation in document.get("citations") or ():
                self._write_citation(citation)
        elif block.kind == "tool_use":
            self._start_call(block)
        elif block.kind == "thinking":
            self._write_text(block, "reasoning_content", document.get("thinking"))
        elif block.kind not in _READ_TYPES:
            # Calls of Anthropic's own tools, their results, and what else it adds; never part of a caller's call.
            self._account.drop("server_tool" if "tool" in block.kind else "other", block.kind)

    def _read_delta(self, index: Any, delta: dict[str, Any]) -> None:
        kind = delta.get("type")
        block = self._blocks.get(index)
        if block is None and kind in _BLOCK_TYPES:
            block = self._blocks[index] = _Block({"type": _BLOCK_TYPES[kind]})
        if block is not None and block.kind not in _READ_TYPES:
            return
        if block is not None and kind == "text_delta":
            self._write_text(block, "content", delta.get("text"))
        elif block is not None and kind == "input_json_delta" and block.call is not None:
            self._write_arguments(block.call, delta.get("partial_json"))
        elif block is not None and kind == "thinking_delta":
            self._write_text(block, "reasoning_content", delta.get("thinking"))
        elif block is not None and kind == "signature_delta":
            block.document = {**block.document, "signature": delta.get("signature")}
        elif kind == "citations_delta":
            self._write_citation(delta.get("citation"))
        else:
            self._account.drop("call" if kind == "input_json_delta" else "other", str(kind))

    def _stop_block(self, index: Any) -> None:
        block = self._blocks.pop(index, None)
        if block is None:
            return
        if rest := block.joiner.end():
            self._write_text(block, "content" if block.kind == "text" else "reasoning_content", rest)
        if block.kind == "thinking":
            self._deltas.append({"thinking_blocks": [{**block.document, "thinking": "".join(block.thinking)}]})
        elif block.kind == "redacted_thinking":
            self._deltas.append({"thinking_blocks": [block.document]})
        elif block.call is not None:
            self._write_arguments(block.call, block.call.joiner.end())
            if not block.call.pieces:
                self._write_call(block.call, "{}")

    def _write_text(self, block: _Block, name: str, text: Any) -> None:
        text = block.joiner.join(text) if isinstance(text, str) and text else ""
        if not text:
            return
        self._account.text_in += len(text)
        if name == "content":
            self._content_chars += len(text)
        else:
            block.thinking.append(text)
        self._add_text(name, text)

    def _add_text(self, name: str, text: str) -> None:
        self._account.text_out += len(text)
        self._deltas.append({name: text})

    def _write_citation(self, citation: Any) -> None:
        """Write a citation of a web page; others cite documents by their place, which chat completions cannot."""
        if not isinstance(citation, dict) or not isinstance(citation.get("url"), str):
            self._account.drop("citation", "citations")
            return
        place = {"start_index": self._content_chars, "end_index": self._content_chars}
        inner = {"url": citation["url"], "title": str(citation.get("title") or ""), **place}
        self._deltas.append({"annotations": [{"type": "url_citation", "url_citation": inner}]})

    def _start_call(self, block: _Block) -> None:
        """Begin a call; its input is empty here at Anthropic, and whole at some compatible servers."""
        input_ = block.document.get("input")
        arguments = input_ if isinstance(input_, str) else lenient_json.dumps(input_).decode() if input_ else ""
        name = str(block.document.get("name") or "")
        call = block.call = self._calls.add({"id": block.document.get("id"), "function": {"name": name}})
        self._calls.begin(call)
        self._account.calls_in += 1
        self._account.calls_out += 1
        self._account.text_in += len(arguments)
        self._write_call(call, arguments if call.accepts(arguments) else "", begins=True)

    def _write_arguments(self, call: ChatCall, text: Any) -> None:
        text = call.joiner.join(text) if isinstance(text, str) and text else ""
        if not text:
            return
        if call.accepts(text):
            self._account.text_in += len(text)
            self._write_call(call, text)
        elif text.strip() and not call.has_empty_arguments:
            self._account.drop("call", "input_json_delta")

    def _write_call(self, call: ChatCall, arguments: str, *, begins: bool = False) -> None:
        """Write a piece of a call; of the tool that stands for a JSON answer, as text."""
        if self._json_tool_forced:
            if arguments:
                self._add_text("content", arguments)
            return
        name = self._caller_tool(call.name).name
        entry: dict[str, Any] = {"index": call.number, "function": {"arguments": arguments}}
        if begins:
            function = {"name": name, "arguments": arguments}
            entry = {"index": call.number, "id": call.id, "type": "function", "function": function}
        if call.pieces:
            self._account.text_out += len(arguments)
        self._deltas.append({"tool_calls": [entry]})


def _assembled_message(deltas: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that the deltas of a stream amount to."""
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    for delta in deltas:
        for name, value in delta.items():
            if isinstance(value, str):
                message[name] = (message.get(name) or "") + value
            elif name != "tool_calls":
                message.setdefault(name, []).extend(value)
    calls: dict[int, dict[str, Any]] = {}
    for entry in (entry for delta in deltas for entry in delta.get("tool_calls", ())):
        if "id" in entry:
            calls[entry["index"]] = {name: value for name, value in entry.items() if name != "index"}
        else:
            calls[entry["index"]]["function"]["arguments"] += entry["function"]["arguments"]
    return {**message, "tool_calls": list(calls.values())} if calls else message
