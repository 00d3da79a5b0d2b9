"""The complaints that OpenAI's dialects share, in OpenAI's words, and the rules for tools and schemas."""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from .base import Body
from .errors import ApiError

FUNCTION_NAME_PATTERN = "^[a-zA-Z0-9_-]+$"
_FUNCTION_NAME_RE = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_JSON_TYPE_NAMES = {"dict": "an object", "list": "an array", "str": "a string", "int": "an integer", "NoneType": "null"}


def unknown_parameter(path: str) -> ApiError:
    """A field that the API does not know."""
    return ApiError(message=f"Unknown parameter: '{path}'.", openai_code="unknown_parameter", param=path)


def missing_parameter(path: str) -> ApiError:
    """A field that must be there."""
    return ApiError(
        message=f"Missing required parameter: '{path}'.", openai_code="missing_required_parameter", param=path
    )


def invalid_value(path: str, value: object, supported: Sequence[str]) -> ApiError:
    """A value that is none of the supported ones."""
    *most, last = (f"'{one}'" for one in supported)
    listed = f"{', '.join(most)}, and {last}" if len(most) > 1 else " and ".join([*most, last])
    message = f"Invalid value: '{value}'. Supported values are: {listed}."
    return ApiError(message=message, openai_code="invalid_value", param=path)


def wrong_type(path: str, expected: str, value: object) -> ApiError:
    """A value of the wrong JSON type."""
    got = _JSON_TYPE_NAMES.get(type(value).__name__, "another type")
    message = f"Invalid type for '{path}': expected {expected}, but got {got} instead."
    return ApiError(message=message, openai_code="invalid_type", param=path)


def minimum_errors(path: str, value: object, least: int) -> Iterator[ApiError]:
    """A limit that is too low to be one."""
    if value is not None and not isinstance(value, int):
        yield wrong_type(path, "an integer", value)
    elif value is not None and value < least:
        message = (
            f"Invalid '{path}': integer below minimum value. Expected a value >= {least}, but got {value} instead."
        )
        yield ApiError(message=message, openai_code="integer_below_min_value", param=path)


def unknown_field_errors(fields: Body, known: Collection[str], path: str) -> Iterator[ApiError]:
    """Every field that is not known."""
    return (unknown_parameter(f"{path}.{name}") for name in fields if name not in known)


def tool_dependency_errors(body: Body) -> Iterator[ApiError]:
    """Parameters about tools where there are none."""
    for name in ("tool_choice", "parallel_tool_calls"):
        if body.get(name) not in (None, "none", "auto") and not body.get("tools"):
            message = f"Invalid value for '{name}': '{name}' is only allowed when 'tools' are specified."
            yield ApiError(message=message, param=name)
    if body.get("stream_options") is not None and not body.get("stream"):
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        yield ApiError(message=message, param="stream_options")


def function_errors(tool: Body, path: str) -> Iterator[ApiError]:
    """A function's name and parameters, wherever the dialect keeps them."""
    name = tool.get("name")
    if not isinstance(name, str):
        yield missing_parameter(f"{path}.name")
    elif not _FUNCTION_NAME_RE.fullmatch(name):
        message = f"Invalid '{path}.name': string does not match pattern. Expected a string that matches the pattern"
        yield ApiError(
            message=f"{message} '{FUNCTION_NAME_PATTERN}'.", openai_code="invalid_value", param=f"{path}.name"
        )
    parameters = tool.get("parameters")
    if parameters is None:
        return
    start = f"Invalid schema for function '{name}': "
    problem = _strictness_violation(parameters) if tool.get("strict") is True else None
    if not isinstance(parameters, dict) or (parameters.get("type") != "object" and parameters):
        kind = parameters.get("type") if isinstance(parameters, dict) else parameters
        problem = f"""schema must be a JSON Schema of 'type: "object"', got 'type: "{kind}"'."""
    if problem:
        yield ApiError(message=start + problem, openai_code="invalid_function_parameters", param=f"{path}.parameters")


def schema_errors(wanted: Body, path: str, place: str) -> Iterator[ApiError]:
    """The schema of a structured output."""
    if not isinstance(wanted.get("name"), str):
        yield missing_parameter(f"{path}.name")
    problem = _strictness_violation(wanted.get("schema")) if wanted.get("strict") else None
    if problem:
        message = f"Invalid schema for {place} '{wanted.get('name')}': {problem}"
        yield ApiError(message=message, openai_code="invalid_json_schema", param=place)


def _strictness_violation(schema: Any, context: tuple[str, ...] = ()) -> str | None:
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
    return next((found for step, one in inside if (found := _strictness_violation(one, (*context, *step)))), None)
