"""Errors that OpenAI's dialects share, and the rules for tools and schemas."""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from .base import Body
from .errors import ApiError

FUNCTION_NAME_PATTERN = "^[a-zA-Z0-9_-]+$"
_FUNCTION_NAME_RE = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_JSON_TYPE_NAMES = {"dict": "an object", "list": "an array", "str": "a string", "int": "an integer", "NoneType": "null"}


def unknown_parameter(path: str) -> ApiError:
    """A field that the API does not have."""
    return ApiError(message=f"Unknown parameter: '{path}'.", openai_code="unknown_parameter", param=path)


def missing_parameter(path: str) -> ApiError:
    """A missing field."""
    return ApiError(
        message=f"Missing required parameter: '{path}'.", openai_code="missing_required_parameter", param=path
    )


def invalid_value(path: str, value: object, supported: Sequence[str]) -> ApiError:
    """A value that is not supported."""
    *most, last = (f"'{option}'" for option in supported)
    listed = f"{', '.join(most)}, and {last}" if len(most) > 1 else " and ".join([*most, last])
    message = f"Invalid value: '{value}'. Supported values are: {listed}."
    return ApiError(message=message, openai_code="invalid_value", param=path)


def wrong_type(path: str, expected: str, value: object) -> ApiError:
    """A value of the wrong JSON type."""
    got = _JSON_TYPE_NAMES.get(type(value).__name__, "another type")
    message = f"Invalid type for '{path}': expected {expected}, but got {got} instead."
    return ApiError(message=message, openai_code="invalid_type", param=path)


def minimum_errors(path: str, value: object, minimum: int) -> Iterator[ApiError]:
    """A limit that is not an integer or too low."""
    if value is not None and not isinstance(value, int):
        yield wrong_type(path, "an integer", value)
    elif value is not None and value < minimum:
        message = (
            f"Invalid '{path}': integer below minimum value. Expected a value >= {minimum}, but got {value} instead."
        )
        yield ApiError(message=message, openai_code="integer_below_min_value", param=path)


def unknown_field_errors(fields: Body, allowed: Collection[str], path: str) -> Iterator[ApiError]:
    """Every field that is not allowed."""
    return (unknown_parameter(f"{path}.{name}") for name in fields if name not in allowed)


def tool_dependency_errors(body: Body) -> Iterator[ApiError]:
    """Parameters that require tools or a stream, without them."""
    for name in ("tool_choice", "parallel_tool_calls"):
        if body.get(name) not in (None, "none", "auto") and not body.get("tools"):
            message = f"Invalid value for '{name}': '{name}' is only allowed when 'tools' are specified."
            yield ApiError(message=message, param=name)
    if body.get("stream_options") is not None and not body.get("stream"):
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        yield ApiError(message=message, param="stream_options")


def function_errors(tool: Body, path: str) -> Iterator[ApiError]:
    """A function's name and parameters, wherever the dialect has them."""
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


def schema_errors(output_format: Body, path: str, param: str) -> Iterator[ApiError]:
    """The schema of a structured output."""
    if not isinstance(output_format.get("name"), str):
        yield missing_parameter(f"{path}.name")
    problem = _strictness_violation(output_format.get("schema")) if output_format.get("strict") else None
    if problem:
        message = f"Invalid schema for {param} '{output_format.get('name')}': {problem}"
        yield ApiError(message=message, openai_code="invalid_json_schema", param=param)


def _strictness_violation(schema: Any, context: tuple[str, ...] = ()) -> str | None:
    """Why a schema is not strict; None: it is.

    Rules: https://platform.openai.com/docs/guides/structured-outputs
    """
    if not isinstance(schema, dict):
        return None
    if isinstance(properties := schema.get("properties"), dict) or schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            return f"In context={context}, 'additionalProperties' is required to be supplied and to be false."
        missing = [name for name in properties or {} if name not in (schema.get("required") or ())]
        if missing:
            return (
                f"In context={context}, 'required' is required to be supplied and to be an array including every key in"
                f" properties. Missing '{missing[0]}'."
            )
    nested: list[tuple[tuple[str, ...], Any]] = [(("items",), schema.get("items"))]
    nested += [(("properties", name), value) for name, value in (schema.get("properties") or {}).items()]
    nested += [(("$defs", name), value) for name, value in (schema.get("$defs") or {}).items()]
    nested += [(("anyOf", str(index)), value) for index, value in enumerate(schema.get("anyOf") or ())]
    violations = (_strictness_violation(value, (*context, *path)) for path, value in nested)
    return next((violation for violation in violations if violation), None)
