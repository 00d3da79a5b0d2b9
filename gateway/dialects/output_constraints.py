"""What form a request asks its answer to have, in any dialect: a schema, the tools that may be called."""

from collections.abc import Mapping
from typing import Any

from ..values.base import Value
from ..values.request import Request
from . import body as bodies


class OutputConstraints(Value, frozen=True, kw_only=True):
    """What the answer has to be like: `schema` is the JSON Schema of a structured answer ({} for any object, None where
    text will do), `tools` the parameters' schema of each offered tool, `must_call` that one has to be called, `limited` that the caller set a limit to its length."""

    schema: Mapping[str, Any] | None = None
    tools: Mapping[str, Mapping[str, Any]] = {}
    tool_call_required: bool = False
    has_output_limit: bool = False


def parse_output_constraints(request: Request) -> OutputConstraints:
    """Read it from the body; walks the whole of it, so only who needs to know should ask."""
    document = bodies.parse_document(bytes(request.body))
    choice = document.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else choice
    return OutputConstraints(
        schema=_output_schema(document),
        tools=dict([one for tool in _objects(document.get("tools")) if (one := _tool_schema(tool)) is not None]),
        tool_call_required=isinstance(kind, str) and kind in ("required", "any", "tool", "function"),
        has_output_limit=request.max_output_tokens is not None,
    )


def _output_schema(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    text = document.get("text")
    given = document.get("response_format", text.get("format") if isinstance(text, dict) else None)
    config = document.get("output_config")
    given = given if given is not None else config.get("format") if isinstance(config, dict) else None
    if not isinstance(given, dict):
        return None
    if given.get("type") == "json_object":
        return {"type": "object"}
    if given.get("type") != "json_schema":
        return None
    inner = given.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, dict) else given.get("schema")
    return schema if isinstance(schema, dict) else {}


def _tool_schema(tool: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    inner = tool.get("function") if isinstance(tool.get("function"), dict) else tool
    assert isinstance(inner, Mapping), "a tool is an object"
    name, schema = inner.get("name"), inner.get("parameters", inner.get("input_schema"))
    if not isinstance(name, str):
        return None
    return name, schema if isinstance(schema, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
