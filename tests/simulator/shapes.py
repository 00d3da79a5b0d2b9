"""Requests to the simulated provider, and readers of its answers."""

import json
from typing import Any

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
CHAT_TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
RESPONSES_TOOL = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}
MESSAGES_TOOL = {"name": "weather", "input_schema": SCHEMA}
TWO = '[[sim {"tool_calls": [{"name": "weather", "arguments": {"city": "a"}}, {"name": "weather"}]}]]'
PICTURE = "data:image/png;base64,iVBORw0KGgo="


def user(content: Any) -> dict[str, Any]:
    """A user message."""
    return {"role": "user", "content": content}


def events(text: str) -> list[dict[str, Any]]:
    """The events of a stream, whose names are their types."""
    parsed = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        parsed.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {parsed[-1]['type']}"
    return parsed


def assembled(stream_events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks of a message, assembled as a client does."""
    blocks: list[dict[str, Any]] = []
    inputs = ""
    for event in stream_events:
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"])
        elif event["type"] == "content_block_delta":
            delta = dict(event["delta"])
            kind = delta.pop("type")
            ((name, value),) = delta.items()
            if kind == "input_json_delta":
                inputs += value
                blocks[-1]["input"] = json.loads(inputs or "{}") if inputs.count("{") == inputs.count("}") else {}
            else:
                blocks[-1][name] = blocks[-1].get(name, "") + value
    return blocks
