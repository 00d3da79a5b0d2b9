"""What Anthropic's messages reject, with its error messages."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..issued_ids import TOOL_ID_PATTERN, IdIssuer
from .base import Body
from .errors import ApiError

# anthropic-python 2.11, types/message_create_params.py and message_count_tokens_params.py.
_COUNT_PARAMETER_NAMES = (
    "messages model cache_control output_config speed system thinking tool_choice tools user_profile_id workspace_id"
)
_PARAMETER_NAMES = (
    f"{_COUNT_PARAMETER_NAMES} max_tokens container diagnostics inference_geo metadata prefill service_tier stop_sequences stream"
    " temperature top_k top_p"
)
# Those of types/beta/message_create_params.py: accepted only with a beta header.
_BETA_PARAMETER_NAMES = (
    "betas billing_policy compaction container context_management fallback_credit_token fallbacks mcp_servers"
    " output_format thread"
)
# The blocks of a message with the fields of each; None = any.
_BLOCK_FIELDS: dict[str, set[str] | None] = {
    "text": {"text", "citations"},
    "image": {"source", "transformations"},
    "document": {"source", "citations", "context", "title"},
    "search_result": None,
    "thinking": {"thinking", "signature"},
    "redacted_thinking": {"data"},
    "tool_use": {"id", "name", "input", "caller", "toolset_name"},
    "tool_result": {"tool_use_id", "content", "is_error", "toolset_name"},
    "server_tool_use": None,
    "web_search_tool_result": None,
    "web_fetch_tool_result": None,
    "code_execution_tool_result": None,
    "bash_code_execution_tool_result": None,
    "text_editor_code_execution_tool_result": None,
    "tool_search_tool_result": None,
    "container_upload": None,
    "mcp_tool_use": None,
    "mcp_tool_result": None,
    "compaction": None,
}
_COMMON_BLOCK_FIELDS = {"type", "cache_control"}
_THINKING_BLOCK_TYPES = ("thinking", "redacted_thinking")
_THINKING_KINDS = ("adaptive", "between_tools", "disabled", "enabled")
_MIN_BUDGET_TOKENS, _MAX_BREAKPOINTS = 1024, 4
_TOOL_FIELDS = frozenset(
    {"name", "description", "input_schema", "type", "cache_control", "strict", "allowed_callers", "defer_loading"}
    | {"eager_input_streaming", "input_examples"}
)
# Tools that Anthropic runs or defines have the date of their version.
_VERSIONED_TOOL_TYPE = re.compile(r"[a-z_]+_\d{8}|mcp_toolset")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_THINKING_FIRST_MESSAGE = (
    " When `thinking` is enabled, a final `assistant` message must start with a thinking block (preceeding the lastmost set"
    " of `tool_use` and `tool_result` blocks). We recommend you include thinking blocks from previous turns. To avoid this"
    " requirement, disable `thinking`."
)
_EXTRA_FIELD_MESSAGE = "Extra inputs are not permitted"

# (message index, block index, block); errors name the indexes.
_PositionedBlock = tuple[int, int, Body]


def validation_errors(
    body: Body, headers: Mapping[str, str], ids: IdIssuer, *, counting: bool = False
) -> Iterator[ApiError]:
    """Every error of a request; `counting`: of a token count request."""
    parameters = {*(_COUNT_PARAMETER_NAMES if counting else _PARAMETER_NAMES).split(), "sim"}
    parameters |= set(_BETA_PARAMETER_NAMES.split()) if headers.get("anthropic-beta") else set()
    for name in body:
        if name not in parameters:
            yield _error_at(name, _EXTRA_FIELD_MESSAGE)
    messages = body.get("messages")
    if not isinstance(messages, list):
        yield _error_at("messages", "Field required" if messages is None else "Input should be a valid list")
        return
    if not counting:
        yield from _limit_errors(body)
    yield from _thinking_errors(body)
    yield from _tool_errors(body)
    yield from _system_errors(body)
    if not messages:
        yield _error_at("messages", "at least one message is required")
    for index, message in enumerate(messages):
        yield from _message_errors(index, message, len(messages), headers, ids)
    turns = list(_merged_turns(messages))
    yield from _call_pairing_errors(turns)
    if (body.get("thinking") or {}).get("type") == "enabled":
        yield from _thinking_first_errors(turns)


def _error_at(path: str, problem: str) -> ApiError:
    return ApiError(message=f"{path}: {problem}")


def _limit_errors(body: Body) -> Iterator[ApiError]:
    limit = body.get("max_tokens")
    if limit is None:
        yield _error_at("max_tokens", "Field required")
    elif not isinstance(limit, int) or limit < 0:
        yield _error_at("max_tokens", "Input should be greater than or equal to 0")
    temperature = body.get("temperature")
    if temperature is not None and not 0 <= temperature <= 1:
        yield _error_at("temperature", "range: 0..1")
    for name in (body.get("metadata") or {}).keys() - {"user_id"}:
        yield _error_at(f"metadata.{name}", _EXTRA_FIELD_MESSAGE)
    if any(not text.strip() for text in body.get("stop_sequences") or ()):
        yield _error_at("stop_sequences", "each stop sequence must contain non-whitespace")


def _thinking_errors(body: Body) -> Iterator[ApiError]:
    thinking = body.get("thinking")
    if thinking is None:
        return
    kind, budget = thinking.get("type"), thinking.get("budget_tokens")
    if kind not in _THINKING_KINDS:
        tags = ", ".join(f"'{tag}'" for tag in _THINKING_KINDS)
        yield _error_at(
            "thinking", f"Input tag '{kind}' found using 'type' does not match any of the expected tags: {tags}"
        )
    if kind == "enabled":
        if not isinstance(budget, int):
            yield _error_at("thinking.enabled.budget_tokens", "Field required")
        elif budget < _MIN_BUDGET_TOKENS:
            problem = f"Input should be greater than or equal to {_MIN_BUDGET_TOKENS}"
            yield _error_at("thinking.enabled.budget_tokens", problem)
        elif budget >= (body.get("max_tokens") or budget + 1):
            yield ApiError(message="`max_tokens` must be greater than `thinking.budget_tokens`.")
    elif budget is not None:
        yield _error_at(f"thinking.{kind}.budget_tokens", _EXTRA_FIELD_MESSAGE)
    if kind in ("enabled", "adaptive"):
        if (body.get("tool_choice") or {}).get("type") in ("any", "tool"):
            yield ApiError(message="Thinking may not be enabled when tool_choice forces tool use.")
        if body.get("temperature") not in (None, 1):
            yield ApiError(message="`temperature` may only be set to 1 when thinking is enabled.")


def _tool_errors(body: Body) -> Iterator[ApiError]:
    names = set()
    for index, tool in enumerate(body.get("tools") or ()):
        path, name = f"tools.{index}.custom", tool.get("name")
        kind = tool.get("type") or "custom"
        if kind != "custom":
            if not _VERSIONED_TOOL_TYPE.fullmatch(kind):
                yield _error_at(
                    f"tools.{index}", f"Input tag '{kind}' found using 'type' does not match any of the expected tags"
                )
            continue
        for extra in tool.keys() - _TOOL_FIELDS:
            yield _error_at(f"{path}.{extra}", _EXTRA_FIELD_MESSAGE)
        if not isinstance(name, str):
            yield _error_at(f"{path}.name", "Field required")
        elif not _TOOL_NAME.fullmatch(name):
            yield _error_at(f"{path}.name", "String should match pattern '^[a-zA-Z0-9_-]{1,128}$'")
        if name in names:
            yield _error_at("tools", "Tool names must be unique.")
        names.add(name)
        if not isinstance(tool.get("input_schema"), dict):
            yield _error_at(f"{path}.input_schema", "Field required")
        elif tool["input_schema"].get("type") != "object":
            has_type = "type" in tool["input_schema"]
            yield _error_at(f"{path}.input_schema.type", "Input should be 'object'" if has_type else "Field required")
    choice = body.get("tool_choice")
    if choice is not None and not isinstance(choice, dict):
        yield _error_at("tool_choice", "Input should be a valid dictionary or object to extract fields from")
    elif choice and choice.get("type") not in ("auto", "any", "tool", "none"):
        problem = f"Input tag '{choice.get('type')}' found using 'type' does not match any of the expected tags: 'any', 'auto',"
        yield _error_at("tool_choice", f"{problem} 'none', 'tool'")
    elif choice and not body.get("tools"):
        yield _error_at("tool_choice", "tool_choice may only be specified while providing tools")


def _system_errors(body: Body) -> Iterator[ApiError]:
    system = body.get("system")
    if system is not None and not isinstance(system, str | list):
        yield _error_at("system", "Input should be a valid string")
    for index, block in enumerate(system if isinstance(system, list) else ()):
        if block.get("type") != "text":
            yield _error_at(f"system.{index}.type", "Input should be 'text'")
        elif not block.get("text"):
            yield _error_at("system", "text content blocks must be non-empty")
    marked = [*(body.get("tools") or ()), *(system if isinstance(system, list) else ())]
    marked += [block for message in body["messages"] for block in _blocks(message)]
    count = sum(block.get("cache_control") is not None for block in marked)
    if count > _MAX_BREAKPOINTS:
        text = f"A maximum of {_MAX_BREAKPOINTS} blocks with cache_control may be provided. Found {count}."
        yield ApiError(message=text)


def _message_errors(
    index: int, message: Body, count: int, headers: Mapping[str, str], ids: IdIssuer
) -> Iterator[ApiError]:
    role, content, path = message.get("role"), message.get("content"), f"messages.{index}"
    if role == "system" and headers.get("anthropic-version") == "2023-06-01" and not headers.get("anthropic-beta"):
        text = 'Unexpected role "system". The Messages API accepts a top-level `system` parameter, not "system" as an input'
        yield _error_at("messages", f"{text} message role.")
    elif role not in ("user", "assistant", "system"):
        yield _error_at(f"{path}.role", "Input should be 'user' or 'assistant'")
    for extra in message.keys() - {"role", "content"}:
        yield _error_at(f"{path}.{extra}", _EXTRA_FIELD_MESSAGE)
    if content is None or not isinstance(content, str | list):
        yield _error_at(f"{path}.content", "Field required" if content is None else "Input should be a valid list")
    elif not content and not (role == "assistant" and index == count - 1):
        problem = "all messages must have non-empty content except for the optional final assistant message"
        yield _error_at(path, problem)
    for block_index, block in enumerate(_blocks(message)):
        yield from _block_errors(block, f"{path}.content.{block_index}", role, ids)


def _block_errors(block: Body, path: str, role: Any, ids: IdIssuer) -> Iterator[ApiError]:
    kind = block.get("type")
    if kind not in _BLOCK_FIELDS or (kind in (*_THINKING_BLOCK_TYPES, "tool_use") and role != "assistant"):
        tags = ", ".join(f"'{block_type}'" for block_type in _BLOCK_FIELDS)
        yield _error_at(path, f"Input tag '{kind}' found using 'type' does not match any of the expected tags: {tags}")
        return
    fields = _BLOCK_FIELDS[kind]
    for extra in block.keys() - (fields | _COMMON_BLOCK_FIELDS) if fields is not None else ():
        yield _error_at(f"{path}.{kind}.{extra}", _EXTRA_FIELD_MESSAGE)
    if kind == "text" and not str(block.get("text") or "").strip():
        problem = "must be non-empty" if not block.get("text") else "must contain non-whitespace text"
        yield _error_at("messages", f"text content blocks {problem}")
    if kind == "thinking" and not ids.is_signed(block.get("thinking"), block.get("signature")):
        yield _error_at(path, "Invalid `signature` in `thinking` block")
    for name in ("id", "tool_use_id"):
        id = block.get(name)
        if id is not None and not TOOL_ID_PATTERN.fullmatch(str(id)):
            yield _error_at(f"{path}.{kind}.{name}", "String should match pattern '^[a-zA-Z0-9_-]+$'")
    if kind == "tool_use" and not isinstance(block.get("input"), dict):
        yield _error_at(f"{path}.tool_use.input", "Input should be a valid dictionary")


def _blocks(message: Body) -> Sequence[Body]:
    content = message.get("content")
    return content if isinstance(content, list) else ()


def _merged_turns(messages: Sequence[Body]) -> Iterator[tuple[Any, int, list[_PositionedBlock]]]:
    """(role, first message index, blocks) of each turn.

    Messages of the same role in a row are one turn to the API.
    """
    turn: tuple[Any, int, list[_PositionedBlock]] | None = None
    for index, message in enumerate(messages):
        role = message.get("role")
        if role == "system":
            continue
        if turn is None or turn[0] != role:
            if turn is not None:
                yield turn
            turn = (role, index, [])
        turn[2].extend((index, block_index, block) for block_index, block in enumerate(_blocks(message)))
        if isinstance(message.get("content"), str):
            turn[2].append((index, 0, {"type": "text"}))
    if turn is not None:
        yield turn


def _call_pairing_errors(turns: Sequence[tuple[Any, int, list[_PositionedBlock]]]) -> Iterator[ApiError]:
    """Each tool_use has its tool_result at the start of the next turn, no more."""
    used_before: set[Any] = set()
    for number, (_, index, blocks) in enumerate(turns):
        used = [block.get("id") for _, _, block in blocks if block.get("type") == "tool_use"]
        next_blocks = turns[number + 1][2] if number + 1 < len(turns) else []
        answered = set()
        for _, _, block in next_blocks:
            if block.get("type") != "tool_result":
                break
            answered.add(block.get("tool_use_id"))
        missing = [str(id) for id in used if id not in answered]
        if missing:
            yield _error_at(
                f"messages.{index}",
                f"`tool_use` ids were found without `tool_result` blocks immediately after: {', '.join(missing)}. Each"
                " `tool_use` block must have a corresponding `tool_result` block in the next message.",
            )
        for message_index, block_number, block in blocks:
            if block.get("type") == "tool_result" and block.get("tool_use_id") not in used_before:
                yield _error_at(
                    f"messages.{message_index}.content.{block_number}",
                    f"unexpected `tool_use_id` found in `tool_result` blocks: {block.get('tool_use_id')}. Each `tool_result`"
                    " block must have a corresponding `tool_use` block in the previous message.",
                )
        if len(set(used)) != len(used):
            yield _error_at("messages", "`tool_use` ids must be unique")
        used_before = set(used)


def _thinking_first_errors(turns: Sequence[tuple[Any, int, list[_PositionedBlock]]]) -> Iterator[ApiError]:
    """An unfinished run of tool calls started with thinking."""
    first: list[_PositionedBlock] = []
    for role, _, blocks in reversed(turns):
        if role == "assistant":
            first = blocks
        elif not any(block.get("type") == "tool_result" for _, _, block in blocks):
            break
    if first and turns[-1][0] == "user" and first[0][2].get("type") not in _THINKING_BLOCK_TYPES:
        index, block_index, block = first[0]
        kind = block.get("type")
        problem = f"Expected `thinking` or `redacted_thinking`, but found `{kind}`."
        yield _error_at(f"messages.{index}.content.{block_index}.type", problem + _THINKING_FIRST_MESSAGE)
