"""The events of an unstreamed answer, for callers who asked for a stream that the provider did not send. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from . import lenient_json
from .sse import encode_event

# How the content of a block arrives in a stream: block type -> (field, delta type, the field's value at its start).
_BLOCK_DELTAS = {
    "text": ("text", "text_delta", ""),
    "thinking": ("thinking", "thinking_delta", ""),
    "tool_use": ("input", "input_json_delta", {}),
}


def chat_events(document: Mapping[str, Any]) -> bytes:
    """Return an answer of chat completions as one chunk, its usage chunk and the end mark."""
    choices = [_chunk_choice(choice) for choice in document["choices"] if isinstance(choice, dict)]
    head = {**document, "object": "chat.completion.chunk"}
    return _chunks({**head, "choices": choices})


def completion_events(document: Mapping[str, Any]) -> bytes:
    """Return an answer of the legacy completions as one chunk, its usage chunk and the end mark."""
    return _chunks(dict(document))


def message_events(document: Mapping[str, Any]) -> bytes:
    """Return an answer of Messages as the events of its stream."""
    start = {**document, "content": [], "stop_reason": None, "stop_sequence": None}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(document["content"]):
        events += [{**event, "index": index} for event in _block_events(block)]
    delta = {"stop_reason": document.get("stop_reason"), "stop_sequence": document.get("stop_sequence")}
    events.append({"type": "message_delta", "delta": delta, "usage": document.get("usage") or {}})
    events.append({"type": "message_stop"})
    return b"".join(encode_event(event, named=True) for event in events)


def _chunks(chunk: dict[str, Any]) -> bytes:
    usage = chunk.pop("usage", None)
    chunks = [chunk] if usage is None else [chunk, {**chunk, "choices": [], "usage": usage}]
    return b"".join(map(encode_event, chunks)) + b"data: [DONE]\n\n"


def _chunk_choice(choice: dict[str, Any]) -> dict[str, Any]:
    delta = dict(choice.get("message") or {})
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        # Calls of a stream differ by their index.
        delta["tool_calls"] = [
            {**call, "index": index} if isinstance(call, dict) else call for index, call in enumerate(calls)
        ]
    return {**{name: value for name, value in choice.items() if name != "message"}, "delta": delta}


def _block_events(block: Any) -> Iterator[dict[str, Any]]:
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(block, dict) or kind not in _BLOCK_DELTAS:
        yield {"type": "content_block_start", "content_block": block}
    else:
        field, delta_type, empty = _BLOCK_DELTAS[kind]
        yield {"type": "content_block_start", "content_block": {**block, field: empty}}
        content = block.get(field)
        name, value = ("partial_json", lenient_json.dumps(content).decode()) if field == "input" else (field, content)
        yield {"type": "content_block_delta", "delta": {"type": delta_type, name: value}}
        if kind == "thinking" and block.get("signature"):
            signature = {"type": "signature_delta", "signature": block["signature"]}
            yield {"type": "content_block_delta", "delta": signature}
    yield {"type": "content_block_stop"}
