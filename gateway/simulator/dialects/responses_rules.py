"""What OpenAI's Responses reject, with its error messages."""

from collections.abc import Iterator, Sequence
from typing import Any

from ..issued_ids import IdIssuer
from . import openai_rules
from .base import Body
from .errors import ApiError

# openai-python 2.54 and 3.52, types/responses/response_create_params.py; client_metadata is Codex's.
_PARAMETER_NAMES = (
    "access_programs background client_metadata context_management conversation image include input instructions"
    " max_output_tokens max_tool_calls metadata model moderation parallel_tool_calls previous_response_id prompt"
    " prompt_cache_key prompt_cache_options prompt_cache_retention reasoning safety_identifier service_tier store stream"
    " stream_options temperature text tool_choice tools top_logprobs top_p truncation user"
)
PARAMETERS = frozenset(_PARAMETER_NAMES.split())
# openai-python 2.54, types/responses/response_input_item.py.
_ITEM_TYPES = (
    "message", "item_reference", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output",
    "reasoning", "compaction", "compaction_trigger", "local_shell_call", "local_shell_call_output", "shell_call",
    "shell_call_output", "apply_patch_call", "apply_patch_call_output", "computer_call", "computer_call_output",
    "file_search_call", "web_search_call", "image_generation_call", "code_interpreter_call", "mcp_list_tools",
    "mcp_approval_request", "mcp_approval_response", "mcp_call", "tool_search_call", "tool_search_output",
    "additional_tools", "program", "program_output",
)  # fmt: skip
_ROLES = ("assistant", "system", "developer", "user")
# The last one is sent by Codex to OpenAI itself.
_MESSAGE_FIELDS = frozenset(
    {"type", "role", "content", "id", "status", "phase", "internal_chat_message_metadata_passthrough"}
)
# The parts of a message's content with their fields, by role.
_INPUT_PART_FIELDS: dict[str, set[str]] = {
    "input_text": {"text"},
    "input_image": {"detail", "file_id", "image_url"},
    "input_file": {"detail", "file_data", "file_id", "file_url", "filename"},
    "input_audio": {"input_audio"},
}
_OUTPUT_PART_FIELDS: dict[str, set[str]] = {"output_text": {"text", "annotations", "logprobs"}, "refusal": {"refusal"}}
_COMMON_PART_FIELDS = {"type", "prompt_cache_breakpoint"}
# What the ids of items begin with.
_ID_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc"}
_CALL_ID_CHARS_MAX = 64
_MIN_OUTPUT_TOKENS = 16
# Types of call with the type of item that answers each.
_OUTPUT_TYPE_OF_CALL = {
    "function_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
    "local_shell_call": "local_shell_call_output",
}


def validation_errors(body: Body, before: Sequence[Body], ids: IdIssuer) -> Iterator[ApiError]:
    """Every error of a request; `before`: items of the response that it continues."""
    request_input = body.get("input")
    if request_input is None and not body.keys() & {"previous_response_id", "prompt", "conversation"}:
        message = "One of 'input' or 'previous_response_id' or 'prompt' or 'conversation' must be provided."
        yield ApiError(message=message, openai_code="missing_required_parameter", param="input")
    elif isinstance(request_input, list):
        for index, item in enumerate(request_input):
            yield from _item_errors(item, f"input[{index}]", ids)
        yield from _call_pairing_errors(before, request_input)
    elif request_input is not None and not isinstance(request_input, str):
        yield openai_rules.wrong_type("input", "one of a string or array of input items", request_input)
    yield from openai_rules.minimum_errors("max_output_tokens", body.get("max_output_tokens"), _MIN_OUTPUT_TOKENS)
    yield from _tool_errors(body.get("tools"), "tools")
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and "function" in choice:
        yield openai_rules.unknown_parameter("tool_choice.function")
    yield from openai_rules.tool_dependency_errors({**body, "parallel_tool_calls": None})
    text_format = (body.get("text") or {}).get("format")
    if isinstance(text_format, dict) and text_format.get("type") == "json_schema":
        yield from openai_rules.schema_errors(text_format, "text.format", "text.format.schema")


def _item_errors(item: Body, path: str, ids: IdIssuer) -> Iterator[ApiError]:
    kind = item.get("type", "message")
    if kind not in _ITEM_TYPES:
        yield openai_rules.invalid_value(path, kind, _ITEM_TYPES)
    prefix, id = _ID_PREFIXES.get(kind), item.get("id")
    if prefix and isinstance(id, str) and not id.startswith(prefix):
        message = f"Invalid '{path}.id': '{id}'. Expected an ID that begins with '{prefix}'."
        yield ApiError(message=message, openai_code="invalid_value", param=f"{path}.id")
    if kind == "message":
        yield from _message_errors(item, path)
    if kind in ("function_call", "function_call_output"):
        yield from _call_errors(item, path)
    sealed = item.get("encrypted_content")
    if sealed is not None and not ids.is_sealed(sealed):
        excerpt = f"{sealed[:4]}...{sealed[-4:]}" if isinstance(sealed, str) else sealed
        message = (
            f"The encrypted content {excerpt} could not be verified. Reason: Encrypted content could not be decrypted or"
            " parsed."
        )
        yield ApiError(message=message, openai_code="invalid_encrypted_content")


def _message_errors(message: Body, path: str) -> Iterator[ApiError]:
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        yield openai_rules.invalid_value(f"{path}.role", role, _ROLES)
    yield from openai_rules.unknown_field_errors(message, _MESSAGE_FIELDS, path)
    parts = _OUTPUT_PART_FIELDS if role == "assistant" else _INPUT_PART_FIELDS
    for index, part in enumerate(content if isinstance(content, list) else ()):
        part_path = f"{path}.content[{index}]"
        fields = parts.get(part.get("type") or "")
        if fields is None:
            yield openai_rules.invalid_value(part_path, part.get("type"), tuple(parts))
        else:
            yield from openai_rules.unknown_field_errors(part, fields | _COMMON_PART_FIELDS, part_path)
    if not isinstance(content, str | list):
        yield openai_rules.missing_parameter(f"{path}.content")


def _call_errors(item: Body, path: str) -> Iterator[ApiError]:
    id = item.get("call_id")
    if not isinstance(id, str):
        yield openai_rules.missing_parameter(f"{path}.call_id")
    elif not 0 < len(id) <= _CALL_ID_CHARS_MAX:
        message = (
            f"Invalid '{path}.call_id': string too long. Expected a string with maximum length {_CALL_ID_CHARS_MAX}, but got"
            f" a string with length {len(id)} instead."
        )
        yield ApiError(message=message, openai_code="string_above_max_length", param=f"{path}.call_id")
    if item["type"] == "function_call" and not isinstance(item.get("arguments"), str):
        yield openai_rules.wrong_type(f"{path}.arguments", "a string", item.get("arguments"))
    if item["type"] == "function_call_output" and not isinstance(item.get("output"), str | list):
        yield openai_rules.wrong_type(f"{path}.output", "one of a string or array of objects", item.get("output"))


def _call_pairing_errors(before: Sequence[Body], input_items: Sequence[Body]) -> Iterator[ApiError]:
    """Calls and outputs match in any order; reasoning has a following item."""
    items = [*before, *input_items]
    for call_type, output_type in _OUTPUT_TYPE_OF_CALL.items():
        calls = [item.get("call_id") for item in items if item.get("type") == call_type]
        outputs = [item.get("call_id") for item in items if item.get("type") == output_type]
        kind = "custom tool call" if call_type == "custom_tool_call" else "function call"
        for id in outputs:
            if id not in calls and not _has_references(input_items):
                yield _pairing_error(f"No tool call found for {kind} output with call_id {id}.")
        for id in calls:
            if id not in outputs:
                yield _pairing_error(f"No tool output found for {kind} {id}.")
    for item, next_item in zip(items, [*items[1:], None], strict=True):
        if item.get("type") == "reasoning" and (
            next_item is None or next_item.get("role") in ("user", "system", "developer")
        ):
            yield _pairing_error(
                f"Item '{item.get('id')}' of type 'reasoning' was provided without its required following item."
            )


def _has_references(items: Sequence[Body]) -> bool:
    """Whether some items are references, so that a call may be among them."""
    return any(item.get("type") == "item_reference" for item in items)


def _pairing_error(message: str) -> ApiError:
    return ApiError(message=message, param="input")


def _tool_errors(tools: Any, path: str) -> Iterator[ApiError]:
    for index, tool in enumerate(tools or ()):
        tool_path = f"{path}[{index}]"
        if tool.get("type") == "function":
            if isinstance(tool.get("function"), dict):
                # The shape of chat completions.
                yield openai_rules.missing_parameter(f"{tool_path}.name")
            yield from openai_rules.function_errors(tool, tool_path)
        elif tool.get("type") == "namespace":
            yield from _tool_errors(tool.get("tools"), f"{tool_path}.tools")
        elif not isinstance(tool.get("type"), str):
            yield openai_rules.missing_parameter(f"{tool_path}.type")
