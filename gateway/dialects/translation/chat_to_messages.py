"""Translates chat-completions requests to Messages (answers: messages_answer_to_chat.py)."""

from typing import Any

from ...values.errors import NotTranslatable
from .. import lenient_json
from .efforts import ANTHROPIC_BY_OPENAI
from .fields import FieldReader, carried, dropped, mapped, refused, require_objects, require_type, table
from .media import document_source, image_source
from .messages_answer_to_chat import JSON_TOOL_NAME, MessagesToChatAnswer
from .schemas import closed, input_schema
from .short_names import fit_messages_call_ids, tool_names
from .translated import CallerTool, TranslatedRequest

_SYSTEM_ROLES = ("system", "developer")
_TOOL_CHOICES = {"auto": "auto", "required": "any", "none": "none"}
# Characters of metadata.user_id (Anthropic, API reference, Messages, 2026-11).
_USER_ID_CHARS_MAX = 256

REQUEST_FIELDS = table(
    carried("stream", "top_p", "top_k"),
    mapped(
        model="the deployment's model",
        messages="`system`, `messages`; system messages move to the top, those of one role are joined",
        temperature="the same; refused above 1",
        max_completion_tokens="`max_tokens`",
        max_tokens="the same; of both the larger",
        stop="`stop_sequences`; refused if blank",
        tools="the same; functions alone",
        tool_choice="the same",
        parallel_tool_calls="`tool_choice.disable_parallel_tool_use`",
        response_format="`output_config.format`, objects closed, without bounds; `json_object`: a forced tool, refused beside others",
        reasoning_effort="`output_config.effort` with adaptive thinking; unknown values are dropped",
        user="`metadata.user_id`",
        safety_identifier="`metadata.user_id`, where `user` is absent",
        stream_options="usage is reported as requested",
    ),
    dropped("a label", "metadata"),
    dropped("answers are not stored", "store"),
    dropped("a hint", "prompt_cache_key", "prompt_cache_retention", "service_tier", "seed", "verbosity", "prediction"),
    dropped("a hint", "prompt_cache_options"),
    dropped("without `logprobs`, which is refused", "top_logprobs"),
    refused("Anthropic returns no log probabilities", "logprobs"),
    refused("Anthropic has no such parameter", "logit_bias", "frequency_penalty", "presence_penalty"),
    refused("Anthropic returns a single choice", "n", harmless=(1,)),
    refused("Anthropic outputs text only", "audio", "modalities", harmless=(["text"],)),
    refused("deprecated in favor of 'tools'", "functions", "function_call", harmless=([], "none")),
    refused("web search runs at OpenAI", "web_search_options", harmless=()),
)
MESSAGE_FIELDS = table(
    carried("role", "thinking_blocks", "cache_control"),
    mapped(
        content="blocks",
        refusal="text",
        tool_calls="`tool_use` blocks",
        tool_call_id="a `tool_result` block",
    ),
    dropped("earlier turns without signed thinking", "reasoning_content", "reasoning", "reasoning_details"),
    dropped("a label", "name", "annotations"),
    refused("Anthropic has neither audio answers nor the deprecated function_call", "audio", "function_call"),
)
PART_FIELDS = table(
    carried("type", "text", "cache_control"),
    mapped(refusal="text", image_url="`image`; the type is read from its data", file="`document`; PDF and text"),
)
IMAGE_FIELDS = table(mapped(url="`source`"), dropped("a hint", "detail"))
FUNCTION_FIELDS = table(
    carried("name", "description"), mapped(parameters="`input_schema`"), dropped("a hint", "strict")
)
NESTED_FIELDS = {
    "messages": MESSAGE_FIELDS,
    "messages.content": PART_FIELDS,
    "messages.content.image_url": IMAGE_FIELDS,
    "tools.function": FUNCTION_FIELDS,
}


def translate_request(document: dict[str, Any], *, extended: bool) -> TranslatedRequest:
    """Translate the request to Messages; `max_tokens` is absent if the caller set none. Raises NotTranslatable."""
    fields = FieldReader(document, REQUEST_FIELDS)
    fields.take("model")
    out: dict[str, Any] = {}
    caller_messages = require_objects(fields.take("messages"), "messages")
    _check_messages(caller_messages, fields)
    offered = _offered_functions(fields)
    names = tool_names({*offered, *_called_tools(caller_messages)}, str)
    system, messages = _messages(caller_messages, names)
    if not messages:
        raise NotTranslatable("messages", "Anthropic requires at least one message that is not a system message")
    if system:
        out["system"] = system
    out["messages"] = messages
    fit_messages_call_ids(messages)
    fields.carry(out)
    _set_limits(fields, out)
    _set_tools(fields, out, offered, names)
    _set_response_format(fields, out)
    _set_effort(fields, out)
    user = fields.take("user") or fields.take("safety_identifier")
    if isinstance(user, str) and len(user) <= _USER_ID_CHARS_MAX:
        out["metadata"] = {"user_id": user}
    elif user:
        fields.note_dropped("user")
    for name in ("safety_identifier", "stream_options"):
        fields.take(name)
    return TranslatedRequest(
        document=out,
        caller_document=document,
        dropped_fields=fields.close(),
        caller_tools={short: CallerTool(name=name) for name, short in names.items() if name != short},
    )


def _set_limits(fields: FieldReader, out: dict[str, Any]) -> None:
    """Set the output limit, temperature and stop sequences."""
    limit = max(fields.take("max_completion_tokens") or 0, fields.take("max_tokens") or 0)
    if limit > 0:
        out["max_tokens"] = limit
    temperature = fields.take("temperature")
    if temperature is not None:
        if temperature > 1:
            raise NotTranslatable("temperature", "Anthropic's maximum is 1")
        out["temperature"] = temperature
    stop = fields.take("stop")
    stops = [stop] if isinstance(stop, str) else stop or []
    if any(not isinstance(sequence, str) or not sequence.strip() for sequence in stops):
        raise NotTranslatable("stop", "Anthropic requires stop sequences to contain non-whitespace")
    if stops:
        out["stop_sequences"] = stops


def _set_effort(fields: FieldReader, out: dict[str, Any]) -> None:
    effort = fields.take("reasoning_effort")
    if effort is None or effort == "none":
        return
    translated = ANTHROPIC_BY_OPENAI.get(effort) if isinstance(effort, str) else None
    if translated is None:
        fields.note_dropped("reasoning_effort (no such value at Anthropic)")
        return
    out["output_config"] = {**out.get("output_config", {}), "effort": translated}
    if not _tool_turn_lacks_thinking(out["messages"]):
        out["thinking"] = {"type": "adaptive"}
    else:
        fields.note_dropped("reasoning_effort (its thinking of this tool turn was not sent back)")


def _messages(
    caller_messages: list[dict[str, Any]], names: dict[str, str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(system blocks, messages). Later system messages are hoisted, as in Anthropic's OpenAI-compatible API."""
    system: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    for index, message in enumerate(caller_messages):
        path, role = f"messages.{index}", message.get("role")
        if role in _SYSTEM_ROLES:
            system += _blocks(message.get("content"), path)
            continue
        if role == "tool":
            role, blocks = "user", [_tool_result(message, path)]
        elif role == "assistant":
            blocks = _assistant_blocks(message, path, names)
        elif role == "user":
            blocks = _blocks(message.get("content"), path)
        else:
            raise NotTranslatable(f"{path}.role", f"Anthropic has no role '{role}'")
        if not blocks:
            continue
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        else:
            messages.append({"role": role, "content": blocks})
    if messages and messages[-1]["role"] == "assistant" and messages[-1]["content"][-1].get("type") == "text":
        # Anthropic rejects a final assistant message that ends in white space.
        messages[-1]["content"][-1]["text"] = messages[-1]["content"][-1]["text"].rstrip() or "..."
    return system, messages


def _check_messages(caller_messages: list[dict[str, Any]], fields: FieldReader) -> None:
    """Note the fields of messages and parts that are dropped."""
    for index, message in enumerate(caller_messages):
        path = f"messages.{index}"
        if message.keys() - _USUAL_MESSAGE_FIELDS:
            fields.check(_without_signed_reasoning(message), MESSAGE_FIELDS, path, "messages")
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            fields.check(part, PART_FIELDS, f"{path}.content", "content")
            if isinstance(part, dict) and "image_url" in part:
                fields.check(part["image_url"], IMAGE_FIELDS, path, "image_url")


_USUAL_MESSAGE_FIELDS = frozenset({"role", "content", "tool_calls", "tool_call_id"})


def _without_signed_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """The message without the reasoning text that its signed blocks repeat."""
    if not message.get("thinking_blocks"):
        return message
    return {name: value for name, value in message.items() if not name.startswith("reasoning")}


def _assistant_blocks(message: dict[str, Any], path: str, names: dict[str, str]) -> list[dict[str, Any]]:
    thinking = message.get("thinking_blocks") or []
    blocks = [*require_objects(thinking, f"{path}.thinking_blocks"), *_blocks(message.get("content"), path)]
    if isinstance(message.get("refusal"), str) and message["refusal"]:
        blocks.append({"type": "text", "text": message["refusal"]})
    for index, call in enumerate(require_objects(message.get("tool_calls") or [], f"{path}.tool_calls")):
        function = call.get("function")
        if not isinstance(function, dict):
            raise NotTranslatable(f"{path}.tool_calls.{index}", "only function calls have a counterpart")
        name, input_ = names[str(function.get("name"))], _tool_input(function.get("arguments"))
        blocks.append({"type": "tool_use", "id": str(call.get("id")), "name": name, "input": input_})
    return blocks


def _tool_result(message: dict[str, Any], path: str) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list):
        content = _blocks(content, path)
    result = {"type": "tool_result", "tool_use_id": str(message.get("tool_call_id")), "content": content or ""}
    return _with_cache_control(result, message)


def _blocks(content: Any, path: str) -> list[dict[str, Any]]:
    """Content as blocks, without empty text, which Anthropic rejects."""
    if content is None or isinstance(content, str):
        return [{"type": "text", "text": content}] if content and content.strip() else []
    parts = require_objects(content, f"{path}.content")
    translated = (_block(part, f"{path}.content.{index}") for index, part in enumerate(parts))
    return [block for block in translated if block.get("type") != "text" or block["text"].strip()]


def _block(part: dict[str, Any], path: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind in ("text", "refusal"):
        return _with_cache_control({"type": "text", "text": require_type(part.get(kind), str, path)}, part)
    if kind == "image_url":
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, dict) else url
        return _with_cache_control({"type": "image", "source": image_source(url, path)}, part)
    file = part.get("file")
    if kind == "file" and isinstance(file, dict) and isinstance(file.get("file_data"), str):
        document = {"type": "document", "source": document_source(file, path)}
        return _with_cache_control({**document, "title": file["filename"]} if file.get("filename") else document, part)
    if kind == "file":
        raise NotTranslatable(f"{path}.file", "the file is stored at OpenAI")
    raise NotTranslatable(path, f"Anthropic has no content type '{kind}'")


def _with_cache_control(block: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Copy cache breakpoints, which callers of Claude set in chat completions too."""
    if isinstance(part.get("cache_control"), dict):
        block["cache_control"] = part["cache_control"]
    return block


def _tool_input(arguments: Any) -> dict[str, Any]:
    """Arguments as an object; anything else is wrapped in one."""
    try:
        value = lenient_json.loads(arguments) if isinstance(arguments, str) and arguments else arguments or {}
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"invalid_arguments": arguments}


def _offered_functions(fields: FieldReader) -> dict[str, dict[str, Any]]:
    """The offered functions by name, without their repetitions. Raises NotTranslatable."""
    offered: dict[str, dict[str, Any]] = {}
    for index, tool in enumerate(require_objects(fields.take("tools") or [], "tools")):
        function = tool.get("function")
        if tool.get("type") not in ("function", None) or not isinstance(function, dict):
            raise NotTranslatable(f"tools.{index}", f"Anthropic has no tool type '{tool.get('type')}'")
        fields.check(function, FUNCTION_FIELDS, f"tools.{index}", "tools.function")
        name = str(function.get("name"))
        merged = {**tool, **function}
        if offered.setdefault(name, merged) != merged:
            raise NotTranslatable(f"tools.{index}", f"two different tools have the name '{name[:64]}'")
    return offered


def _called_tools(caller_messages: list[dict[str, Any]]) -> dict[str, None]:
    """Names of the tools that the history calls, in order."""
    calls = (call for message in caller_messages for call in message.get("tool_calls") or ())
    functions = (call.get("function") for call in calls if isinstance(call, dict))
    return {str(function.get("name")): None for function in functions if isinstance(function, dict)}


def _set_tools(
    fields: FieldReader, out: dict[str, Any], offered: dict[str, dict[str, Any]], names: dict[str, str]
) -> None:
    tools = []
    dropped: set[str] = set()
    for name, function in offered.items():
        parameters = require_type(function.get("parameters") or {}, dict, "tools")
        translated = {"name": names[name], "input_schema": input_schema(parameters, "tools", dropped)}
        if function.get("description"):
            translated["description"] = function["description"]
        tools.append(_with_cache_control(translated, function))
    for keyword in sorted(dropped):
        fields.note_dropped(f"tools.parameters.{keyword}")
    choice, parallel = fields.take("tool_choice"), fields.take("parallel_tool_calls")
    used = _used_tools(out["messages"])
    if not tools and used:
        # Anthropic requires a declaration of tools that the history used, even where none may be called any more.
        tools = [{"name": name, "input_schema": {"type": "object"}} for name in used]
        choice = "none"
    if not tools:
        return
    out["tools"] = tools
    tool_choice: dict[str, Any] = {}
    if isinstance(choice, str):
        tool_choice = {"type": _TOOL_CHOICES.get(choice, "auto")}
    elif isinstance(choice, dict):
        if not isinstance(choice.get("function"), dict):
            raise NotTranslatable("tool_choice", f"Anthropic has no tool choice '{choice.get('type')}'")
        chosen = str(choice["function"].get("name"))
        tool_choice = {"type": "tool", "name": names.get(chosen, chosen)}
    if parallel is False and tool_choice.get("type") != "none":
        tool_choice = {"type": "auto", **tool_choice, "disable_parallel_tool_use": True}
    if tool_choice:
        out["tool_choice"] = tool_choice


def _used_tools(messages: list[dict[str, Any]]) -> list[str]:
    names = {
        str(block.get("name")): None
        for message in messages
        if message["role"] == "assistant"
        for block in message["content"]
        if block.get("type") == "tool_use"
    }
    return list(names)


def _set_response_format(fields: FieldReader, out: dict[str, Any]) -> None:
    format_ = fields.take("response_format")
    kind = format_.get("type") if isinstance(format_, dict) else None
    if kind == "json_schema":
        dropped: set[str] = set()
        schema = closed((format_.get("json_schema") or {}).get("schema"), dropped)
        out["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        for keyword in sorted(dropped):
            fields.note_dropped(f"response_format.{keyword}")
    elif kind == "json_object":
        if "tools" in out:
            raise NotTranslatable("response_format", "with tools Anthropic requires a schema; use 'json_schema'")
        out["tools"] = [
            {"name": JSON_TOOL_NAME, "description": "Answer with this.", "input_schema": {"type": "object"}}
        ]
        out["tool_choice"] = {"type": "tool", "name": JSON_TOOL_NAME}
    elif kind not in (None, "text"):
        raise NotTranslatable("response_format", f"Anthropic has no response format '{kind}'")


def _tool_turn_lacks_thinking(messages: list[dict[str, Any]]) -> bool:
    """Whether the newest message answers tool calls of a turn without thinking; Anthropic then rejects `thinking`."""
    if len(messages) < 2 or not any(block.get("type") == "tool_result" for block in messages[-1]["content"]):
        return False
    turn = messages[-2]["content"]
    return not (turn and str(turn[0].get("type")).endswith("thinking"))


def answer_translator(translated: TranslatedRequest, *, answer_id: str, created: int) -> MessagesToChatAnswer:
    """Create the translator of one answer."""
    return MessagesToChatAnswer(translated, answer_id, created)
