"""What Anthropic's messages reject, and in which words."""

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
# Those of types/beta/message_create_params.py: known only to who names a beta.
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
# Tools that Anthropic runs or defines itself carry the date of their version.
_VERSIONED_TOOL_TYPE = re.compile(r"[a-z_]+_\d{8}|mcp_toolset")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_THINKING_FIRST_MESSAGE = (
    " When `thinking` is enabled, a final `assistant` message must start with a thinking block (preceeding the lastmost set"
    " of `tool_use` and `tool_result` blocks). We recommend you include thinking blocks from previous turns. To avoid this"
    " requirement, disable `thinking`."
)
_EXTRA_FIELD_MESSAGE = "Extra inputs are not permitted"

# A block and where it stands: (message, block), the numbers that errors name.
_PositionedBlock = tuple[int, int, Body]


def validation_errors(
    body: Body, headers: Mapping[str, str], mint: IdIssuer, *, counting: bool = False
) -> Iterator[ApiError]:
    """Everything wrong with a request, or with one that only asks for a count."""
    known = {*(_COUNT_PARAMETER_NAMES if counting else _PARAMETER_NAMES).split(), "sim"}
    known |= set(_BETA_PARAMETER_NAMES.split()) if headers.get("anthropic-beta") else set()
    for name in body:
        if name not in known:
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
    for place, message in enumerate(messages):
        yield from _message_errors(place, message, len(messages), headers, mint)
    turns = list(_merged_turns(messages))
    yield from _call_pairing_errors(turns)
    if (body.get("thinking") or {}).get("type") == "enabled":
        yield from _thinking_first_errors(turns)


def _error_at(path: str, what: str) -> ApiError:
    return ApiError(message=f"{path}: {what}")


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
        tags = ", ".join(f"'{one}'" for one in _THINKING_KINDS)
        yield _error_at(
            "thinking", f"Input tag '{kind}' found using 'type' does not match any of the expected tags: {tags}"
        )
    if kind == "enabled":
        if not isinstance(budget, int):
            yield _error_at("thinking.enabled.budget_tokens", "Field required")
        elif budget < _MIN_BUDGET_TOKENS:
            what = f"Input should be greater than or equal to {_MIN_BUDGET_TOKENS}"
            yield _error_at("thinking.enabled.budget_tokens", what)
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
    for place, tool in enumerate(body.get("tools") or ()):
        path, name = f"tools.{place}.custom", tool.get("name")
        kind = tool.get("type") or "custom"
        if kind != "custom":
            if not _VERSIONED_TOOL_TYPE.fullmatch(kind):
                yield _error_at(
                    f"tools.{place}", f"Input tag '{kind}' found using 'type' does not match any of the expected tags"
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
            given = "type" in tool["input_schema"]
            yield _error_at(f"{path}.input_schema.type", "Input should be 'object'" if given else "Field required")
    choice = body.get("tool_choice")
    if choice is not None and not isinstance(choice, dict):
        yield _error_at("tool_choice", "Input should be a valid dictionary or object to extract fields from")
    elif choice and choice.get("type") not in ("auto", "any", "tool", "none"):
        what = f"Input tag '{choice.get('type')}' found using 'type' does not match any of the expected tags: 'any', 'auto',"
        yield _error_at("tool_choice", f"{what} 'none', 'tool'")
    elif choice and not body.get("tools"):
        yield _error_at("tool_choice", "tool_choice may only be specified while providing tools")


def _system_errors(body: Body) -> Iterator[ApiError]:
    system = body.get("system")
    if system is not None and not isinstance(system, str | list):
        yield _error_at("system", "Input should be a valid string")
    for place, block in enumerate(system if isinstance(system, list) else ()):
        if block.get("type") != "text":
            yield _error_at(f"system.{place}.type", "Input should be 'text'")
        elif not block.get("text"):
            yield _error_at("system", "text content blocks must be non-empty")
    marked = [*(body.get("tools") or ()), *(system if isinstance(system, list) else ())]
    marked += [block for message in body["messages"] for block in _blocks(message)]
    count = sum(block.get("cache_control") is not None for block in marked)
    if count > _MAX_BREAKPOINTS:
        text = f"A maximum of {_MAX_BREAKPOINTS} blocks with cache_control may be provided. Found {count}."
        yield ApiError(message=text)


def _message_errors(
    place: int, message: Body, count: int, headers: Mapping[str, str], mint: IdIssuer
) -> Iterator[ApiError]:
    role, content, path = message.get("role"), message.get("content"), f"messages.{place}"
    if role == "system" and headers.get("anthropic-version") == "2023-06-01" and not headers.get("anthropic-beta"):
        text = 'Unexpected role "system". The Messages API accepts a top-level `system` parameter, not "system" as an input'
        yield _error_at("messages", f"{text} message role.")
    elif role not in ("user", "assistant", "system"):
        yield _error_at(f"{path}.role", "Input should be 'user' or 'assistant'")
    for extra in message.keys() - {"role", "content"}:
        yield _error_at(f"{path}.{extra}", _EXTRA_FIELD_MESSAGE)
    if content is None or not isinstance(content, str | list):
        yield _error_at(f"{path}.content", "Field required" if content is None else "Input should be a valid list")
    elif not content and not (role == "assistant" and place == count - 1):
        what = "all messages must have non-empty content except for the optional final assistant message"
        yield _error_at(path, what)
    for number, block in enumerate(_blocks(message)):
        yield from _block_errors(block, f"{path}.content.{number}", role, mint)


def _block_errors(block: Body, path: str, role: Any, mint: IdIssuer) -> Iterator[ApiError]:
    kind = block.get("type")
    if kind not in _BLOCK_FIELDS or (kind in (*_THINKING_BLOCK_TYPES, "tool_use") and role != "assistant"):
        tags = ", ".join(f"'{one}'" for one in _BLOCK_FIELDS)
        yield _error_at(path, f"Input tag '{kind}' found using 'type' does not match any of the expected tags: {tags}")
        return
    known = _BLOCK_FIELDS[kind]
    for extra in block.keys() - (known | _COMMON_BLOCK_FIELDS) if known is not None else ():
        yield _error_at(f"{path}.{kind}.{extra}", _EXTRA_FIELD_MESSAGE)
    if kind == "text" and not str(block.get("text") or "").strip():
        what = "must be non-empty" if not block.get("text") else "must contain non-whitespace text"
        yield _error_at("messages", f"text content blocks {what}")
    if kind == "thinking" and not mint.is_signed(block.get("thinking"), block.get("signature")):
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
    """Messages of the same role in a row are one turn to the API: (role, the first one's number, blocks)."""
    turn: tuple[Any, int, list[_PositionedBlock]] | None = None
    for place, message in enumerate(messages):
        role = message.get("role")
        if role == "system":
            continue
        if turn is None or turn[0] != role:
            if turn is not None:
                yield turn
            turn = (role, place, [])
        turn[2].extend((place, number, block) for number, block in enumerate(_blocks(message)))
        if isinstance(message.get("content"), str):
            turn[2].append((place, 0, {"type": "text"}))
    if turn is not None:
        yield turn


def _call_pairing_errors(turns: Sequence[tuple[Any, int, list[_PositionedBlock]]]) -> Iterator[ApiError]:
    """Each tool_use has its tool_result at the beginning of the next turn, and each result its use in the turn before."""
    used_before: set[Any] = set()
    for number, (_, place, blocks) in enumerate(turns):
        used = [block.get("id") for _, _, block in blocks if block.get("type") == "tool_use"]
        after = turns[number + 1][2] if number + 1 < len(turns) else []
        answered = set()
        for _, _, block in after:
            if block.get("type") != "tool_result":
                break
            answered.add(block.get("tool_use_id"))
        lacking = [str(id) for id in used if id not in answered]
        if lacking:
            yield _error_at(
                f"messages.{place}",
                f"`tool_use` ids were found without `tool_result` blocks immediately after: {', '.join(lacking)}. Each"
                " `tool_use` block must have a corresponding `tool_result` block in the next message.",
            )
        for at, block_number, block in blocks:
            if block.get("type") == "tool_result" and block.get("tool_use_id") not in used_before:
                yield _error_at(
                    f"messages.{at}.content.{block_number}",
                    f"unexpected `tool_use_id` found in `tool_result` blocks: {block.get('tool_use_id')}. Each `tool_result`"
                    " block must have a corresponding `tool_use` block in the previous message.",
                )
        if len(set(used)) != len(used):
            yield _error_at("messages", "`tool_use` ids must be unique")
        used_before = set(used)


def _thinking_first_errors(turns: Sequence[tuple[Any, int, list[_PositionedBlock]]]) -> Iterator[ApiError]:
    """A run of tool calls that is going on began with thinking."""
    first: list[_PositionedBlock] = []
    for role, _, blocks in reversed(turns):
        if role == "assistant":
            first = blocks
        elif not any(block.get("type") == "tool_result" for _, _, block in blocks):
            break
    if first and turns[-1][0] == "user" and first[0][2].get("type") not in _THINKING_BLOCK_TYPES:
        place, number, block = first[0]
        kind = block.get("type")
        what = f"Expected `thinking` or `redacted_thinking`, but found `{kind}`."
        yield _error_at(f"messages.{place}.content.{number}.type", what + _THINKING_FIRST_MESSAGE)
