"""The complaints that OpenAI's dialects share, in OpenAI's words, and the rules for tools and schemas."""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from .base import Body
from .errors import Complaint

NAME = "^[a-zA-Z0-9_-]+$"
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ARTICLES = {"dict": "an object", "list": "an array", "str": "a string", "int": "an integer", "NoneType": "null"}


def unknown(path: str) -> Complaint:
    """A field that the API does not know."""
    return Complaint(message=f"Unknown parameter: '{path}'.", slug="unknown_parameter", param=path)


def missing(path: str) -> Complaint:
    """A field that must be there."""
    return Complaint(message=f"Missing required parameter: '{path}'.", slug="missing_required_parameter", param=path)


def invalid(path: str, value: object, supported: Sequence[str]) -> Complaint:
    """A value that is none of the supported ones."""
    *most, last = (f"'{one}'" for one in supported)
    listed = f"{', '.join(most)}, and {last}" if len(most) > 1 else " and ".join([*most, last])
    message = f"Invalid value: '{value}'. Supported values are: {listed}."
    return Complaint(message=message, slug="invalid_value", param=path)


def wrong_type(path: str, expected: str, value: object) -> Complaint:
    """A value of the wrong JSON type."""
    got = _ARTICLES.get(type(value).__name__, "another type")
    message = f"Invalid type for '{path}': expected {expected}, but got {got} instead."
    return Complaint(message=message, slug="invalid_type", param=path)


def below(path: str, value: object, least: int) -> Iterator[Complaint]:
    """A limit that is too low to be one."""
    if value is not None and not isinstance(value, int):
        yield wrong_type(path, "an integer", value)
    elif value is not None and value < least:
        message = (
            f"Invalid '{path}': integer below minimum value. Expected a value >= {least}, but got {value} instead."
        )
        yield Complaint(message=message, slug="integer_below_min_value", param=path)


def unknown_fields(fields: Body, known: Collection[str], path: str) -> Iterator[Complaint]:
    """Every field that is not known."""
    return (unknown(f"{path}.{name}") for name in fields if name not in known)


def only_with_tools(body: Body) -> Iterator[Complaint]:
    """Parameters about tools where there are none."""
    for name in ("tool_choice", "parallel_tool_calls"):
        if body.get(name) not in (None, "none", "auto") and not body.get("tools"):
            message = f"Invalid value for '{name}': '{name}' is only allowed when 'tools' are specified."
            yield Complaint(message=message, param=name)
    if body.get("stream_options") is not None and not body.get("stream"):
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        yield Complaint(message=message, param="stream_options")


def function(tool: Body, path: str) -> Iterator[Complaint]:
    """A function's name and parameters, wherever the dialect keeps them."""
    name = tool.get("name")
    if not isinstance(name, str):
        yield missing(f"{path}.name")
    elif not _NAME.fullmatch(name):
        message = f"Invalid '{path}.name': string does not match pattern. Expected a string that matches the pattern"
        yield Complaint(message=f"{message} '{NAME}'.", slug="invalid_value", param=f"{path}.name")
    parameters = tool.get("parameters")
    if parameters is None:
        return
    start = f"Invalid schema for function '{name}': "
    problem = _loose(parameters) if tool.get("strict") is True else None
    if not isinstance(parameters, dict) or (parameters.get("type") != "object" and parameters):
        kind = parameters.get("type") if isinstance(parameters, dict) else parameters
        problem = f"""schema must be a JSON Schema of 'type: "object"', got 'type: "{kind}"'."""
    if problem:
        yield Complaint(message=start + problem, slug="invalid_function_parameters", param=f"{path}.parameters")


def schema(wanted: Body, path: str, place: str) -> Iterator[Complaint]:
    """The schema of a structured output."""
    if not isinstance(wanted.get("name"), str):
        yield missing(f"{path}.name")
    problem = _loose(wanted.get("schema")) if wanted.get("strict") else None
    if problem:
        message = f"Invalid schema for {place} '{wanted.get('name')}': {problem}"
        yield Complaint(message=message, slug="invalid_json_schema", param=place)


def _loose(schema: Any, context: tuple[str, ...] = ()) -> str | None:
    """Why a schema is not as strict as https://platform.openai.com/docs/guides/structured-outputs asks."""
    if not isinstance(schema, dict):
        return None
    if isinstance(properties := schema.get("properties"), dict) or schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            return f"In context={context}, 'additionalProperties' is required to be supplied and to be false."
        lacking = [name for name in properties or {} if name not in (schema.get("required") or ())]
        if lacking:
            return (
                f"In context={context}, 'required' is required to be supplied and to be an array including every key in"
                f" properties. Missing '{lacking[0]}'."
            )
    inside: list[tuple[tuple[str, ...], Any]] = [(("items",), schema.get("items"))]
    inside += [(("properties", name), one) for name, one in (schema.get("properties") or {}).items()]
    inside += [(("$defs", name), one) for name, one in (schema.get("$defs") or {}).items()]
    inside += [(("anyOf", str(place)), one) for place, one in enumerate(schema.get("anyOf") or ())]
    return next((found for step, one in inside if (found := _loose(one, (*context, *step)))), None)
