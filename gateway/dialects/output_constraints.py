"""Reads the form a request prescribes for its answer, in any dialect."""

from collections.abc import Mapping
from typing import Any

from ..values.base import Value
from ..values.request import Request
from . import body as bodies


class OutputConstraints(Value, frozen=True, kw_only=True):
    """The form prescribed for an answer.

    schema: JSON Schema of a structured answer, {} for any object, None for text
    tools: parameter schema of each offered tool, by name
    tool_call_required: whether a tool must be called
    has_output_limit: whether the caller limited the output
    """

    schema: Mapping[str, Any] | None = None
    tools: Mapping[str, Mapping[str, Any]] = {}
    tool_call_required: bool = False
    has_output_limit: bool = False


def parse_output_constraints(request: Request) -> OutputConstraints:
    """Read the constraints from the body. Parses all of it, so call it only where they are needed."""
    document = bodies.parse_document(bytes(request.body))
    choice = document.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else choice
    return OutputConstraints(
        schema=_output_schema(document),
        tools=dict(schema for tool in _objects(document.get("tools")) if (schema := _tool_schema(tool)) is not None),
        tool_call_required=isinstance(kind, str) and kind in ("required", "any", "tool", "function"),
        has_output_limit=request.max_output_tokens is not None,
    )


def _output_schema(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    text = document.get("text")
    format_ = document.get("response_format", text.get("format") if isinstance(text, dict) else None)
    config = document.get("output_config")
    format_ = format_ if format_ is not None else config.get("format") if isinstance(config, dict) else None
    if not isinstance(format_, dict):
        return None
    if format_.get("type") == "json_object":
        return {"type": "object"}
    if format_.get("type") != "json_schema":
        return None
    inner = format_.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, dict) else format_.get("schema")
    return schema if isinstance(schema, dict) else {}


def _tool_schema(tool: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    inner = tool.get("function") if isinstance(tool.get("function"), dict) else tool
    assert isinstance(inner, Mapping), "a tool is an object"
    name, schema = inner.get("name"), inner.get("parameters", inner.get("input_schema"))
    if not isinstance(name, str):
        return None
    return name, schema if isinstance(schema, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
