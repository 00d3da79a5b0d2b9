"""What OpenAI's chat completions reject, with its error messages."""

from collections.abc import Iterator, Sequence
from typing import Any

from . import openai_rules
from .base import Body
from .errors import ApiError

# openai-python 2.54 and 3.52, types/chat/completion_create_params.py.
_PARAMETER_NAMES = (
    "messages model audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens"
    " metadata modalities moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key"
    " prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier"
    " stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity"
    " web_search_options"
)
PARAMETERS = frozenset(_PARAMETER_NAMES.split())
_ROLES = ("system", "assistant", "user", "function", "tool", "developer")
_MESSAGE_FIELDS = frozenset(
    {"role", "content", "name", "refusal", "annotations", "audio", "function_call", "tool_calls", "tool_call_id"}
)
# The parts of a message's content with the fields of each.
_PART_FIELDS: dict[str, set[str]] = {
    "text": {"text"},
    "image_url": {"image_url"},
    "input_audio": {"input_audio"},
    "refusal": {"refusal"},
    "audio": {"audio"},
    "file": {"file"},
}
_COMMON_PART_FIELDS = {"type", "prompt_cache_breakpoint"}
_CALL_ID_CHARS_MAX = 40


def validation_errors(body: Body) -> Iterator[ApiError]:
    """Everything wrong with a request."""
    messages = body.get("messages")
    if messages is None:
        yield openai_rules.missing_parameter("messages")
    elif not isinstance(messages, list):
        yield openai_rules.wrong_type("messages", "an array of objects", messages)
    elif not messages:
        message = (
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead."
        )
        yield ApiError(message=message, openai_code="empty_array", param="messages")
    else:
        for index, item in enumerate(messages):
            yield from _message_errors(item, f"messages[{index}]")
        yield from _call_pairing_errors(messages)
    for limit in ("max_tokens", "max_completion_tokens"):
        yield from openai_rules.minimum_errors(limit, body.get(limit), 1)
    yield from _tool_errors(body)
    yield from openai_rules.tool_dependency_errors(body)
    response_format = body.get("response_format")
    if isinstance(response_format, dict) and response_format.get("type") == "json_schema":
        yield from openai_rules.schema_errors(
            response_format.get("json_schema") or {}, "response_format.json_schema", "response_format"
        )


def _message_errors(message: Body, path: str) -> Iterator[ApiError]:
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        yield openai_rules.invalid_value(f"{path}.role", role, _ROLES)
    yield from openai_rules.unknown_field_errors(message, _MESSAGE_FIELDS, path)
    for index, part in enumerate(content if isinstance(content, list) else ()):
        yield from _part_errors(part, f"{path}.content[{index}]")
    if content is None and not (role == "assistant" and message.keys() & {"tool_calls", "function_call", "audio"}):
        error = "Invalid value for 'content': expected a string, got null."
        yield ApiError(message=error, param=f"{path}.content")
    if content is not None and not isinstance(content, str | list):
        yield openai_rules.wrong_type(f"{path}.content", "one of a string or array of objects", content)
    for index, call in enumerate(message.get("tool_calls") or ()):
        yield from _call_errors(call, f"{path}.tool_calls[{index}]")
    if message.get("tool_calls") == []:
        text = (
            f"Invalid '{path}.tool_calls': empty array. Expected an array with minimum length 1, but got an empty array"
        )
        yield ApiError(message=f"{text} instead.", openai_code="empty_array", param=f"{path}.tool_calls")


def _part_errors(part: Body, path: str) -> Iterator[ApiError]:
    fields = _PART_FIELDS.get(part.get("type") or "")
    if fields is None:
        yield openai_rules.invalid_value(f"{path}.type", part.get("type"), tuple(_PART_FIELDS))
    else:
        yield from openai_rules.unknown_field_errors(part, fields | _COMMON_PART_FIELDS, path)
        for name in fields - part.keys():
            yield openai_rules.missing_parameter(f"{path}.{name}")


def _call_errors(call: Body, path: str) -> Iterator[ApiError]:
    kind = call.get("type")
    if kind not in ("function", "custom"):
        yield openai_rules.invalid_value(f"{path}.type", kind, ("function", "custom"))
        return
    arguments: Any = (call.get(kind) or {}).get("arguments" if kind == "function" else "input")
    if not isinstance(arguments, str):
        yield openai_rules.wrong_type(f"{path}.{kind}.arguments", "a string", arguments)
    id = call.get("id")
    if not isinstance(id, str):
        yield openai_rules.missing_parameter(f"{path}.id")
    elif len(id) > _CALL_ID_CHARS_MAX:
        message = (
            f"Invalid '{path}.id': string too long. Expected a string with maximum length {_CALL_ID_CHARS_MAX}, but got a"
            f" string with length {len(id)} instead."
        )
        yield ApiError(message=message, openai_code="string_above_max_length", param=f"{path}.id")


def _call_pairing_errors(messages: Sequence[Body]) -> Iterator[ApiError]:
    """Each call is answered before the next message, and nothing else is answered."""
    called: set[Any] = set()
    open_calls: list[Any] = []
    for index, message in enumerate(messages):
        if message.get("role") != "tool":
            if open_calls:
                yield _unanswered_calls_error(open_calls, index)
            open_calls = [call.get("id") for call in message.get("tool_calls") or ()]
            called = set(open_calls)
            continue
        id = message.get("tool_call_id")
        if id is None:
            yield openai_rules.missing_parameter(f"messages[{index}].tool_call_id")
        elif not called:
            text = "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
            yield ApiError(message=text, param=f"messages.[{index}].role")
        elif id not in called:
            text = f"Invalid parameter: 'tool_call_id' of '{id}' not found in 'tool_calls' of previous message."
            yield ApiError(message=text, param=f"messages.[{index}].tool_call_id")
        open_calls = [call_id for call_id in open_calls if call_id != id]
    if open_calls:
        yield _unanswered_calls_error(open_calls, len(messages))


def _unanswered_calls_error(ids: Sequence[Any], index: int) -> ApiError:
    message = (
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The"
        f" following tool_call_ids did not have response messages: {', '.join(map(str, ids))}"
    )
    return ApiError(message=message, param=f"messages.[{index}].role")


def _tool_errors(body: Body) -> Iterator[ApiError]:
    for index, tool in enumerate(body.get("tools") or ()):
        kind = tool.get("type")
        if kind not in ("function", "custom"):
            yield openai_rules.invalid_value(f"tools[{index}].type", kind, ("function", "custom"))
            continue
        yield from openai_rules.unknown_field_errors(tool, ("type", kind), f"tools[{index}]")
        if not isinstance(tool.get(kind), dict):
            yield openai_rules.missing_parameter(f"tools[{index}].{kind}")
        elif kind == "function":
            fields = ("name", "description", "parameters", "strict")
            yield from openai_rules.unknown_field_errors(tool[kind], fields, f"tools[{index}].function")
            yield from openai_rules.function_errors(tool[kind], f"tools[{index}].function")
    choice = body.get("tool_choice")
    supported = ("none", "auto", "required")
    if isinstance(choice, str) and choice not in supported:
        yield openai_rules.invalid_value("tool_choice", choice, supported)
    if isinstance(choice, dict) and choice.get("type") not in ("function", "custom", "allowed_tools"):
        yield openai_rules.invalid_value(
            "tool_choice.type", choice.get("type"), ("allowed_tools", "function", "custom")
        )
    elif isinstance(choice, dict) and choice["type"] not in choice:
        yield openai_rules.missing_parameter(f"tool_choice.{choice['type']}")
