"""Translates chat-completions requests to Messages (answers: messages_answer_to_chat.py)."""

import hashlib
import re
from typing import Any

import orjson

from ...values.errors import NotTranslatable
from .messages_answer_to_chat import JSON_TOOL_NAME, MessagesToChatAnswer
from .translated import FieldReader, TranslatedRequest, require_objects, require_type

_SYSTEM_ROLES = ("system", "developer")
# What Anthropic accepts as a tool call's id.
_CALL_ID_PATTERN = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")
_DATA_URL = re.compile(r"^data:([\w.+-]+/[\w.+-]+)?(?:;[\w=.-]+)*;base64,", re.ASCII)
_MESSAGE_FIELDS = frozenset(
    {
        "role",
        "content",
        "tool_calls",
        "tool_call_id",
        "refusal",
        "reasoning_content",
        "thinking_blocks",
        "cache_control",
    }
)
_PART_FIELDS = frozenset({"type", "text", "refusal", "image_url", "file", "cache_control"})
_IMAGE_FIELDS = frozenset({"url"})
_FUNCTION_FIELDS = frozenset({"name", "description", "parameters", "strict"})
_TOOL_CHOICES = {"auto": "auto", "required": "any", "none": "none"}


def translate_request(document: dict[str, Any], *, extended: bool) -> TranslatedRequest:
    """Translate the request to Messages; `max_tokens` is absent if the caller set none. Raises NotTranslatable."""
    fields = FieldReader(document)
    fields.take("model")
    out: dict[str, Any] = {}
    caller_messages = require_objects(fields.take("messages"), "messages")
    system, messages = _messages(caller_messages)
    _note_untranslated(caller_messages, fields)
    if not messages:
        raise NotTranslatable("messages", "Anthropic requires at least one message that is not a system message")
    if system:
        out["system"] = system
    out["messages"] = messages
    stream = bool(fields.take("stream"))
    if stream:
        out["stream"] = True
    limit = max(fields.take("max_completion_tokens") or 0, fields.take("max_tokens") or 0)
    if limit > 0:
        out["max_tokens"] = limit
    for name in ("temperature", "top_p", "top_k"):
        value = fields.take(name)
        if value is not None:
            if name == "temperature" and value > 1:
                raise NotTranslatable("temperature", "Anthropic's maximum is 1")
            out[name] = value
    stop = fields.take("stop")
    stops = [stop] if isinstance(stop, str) else stop or []
    if any(not isinstance(sequence, str) or not sequence.strip() for sequence in stops):
        raise NotTranslatable("stop", "Anthropic requires stop sequences to contain non-whitespace")
    if stops:
        out["stop_sequences"] = stops
    _set_tools(fields, out)
    _set_response_format(fields, out)
    effort = fields.take("reasoning_effort")
    if effort is not None and effort != "none":
        out["output_config"] = {**out.get("output_config", {}), "effort": "low" if effort == "minimal" else effort}
        if not _tool_turn_lacks_thinking(messages):
            out["thinking"] = {"type": "adaptive"}
        else:
            fields.note_dropped("reasoning_effort (its thinking of this tool turn was not sent back)")
    user = fields.take("user") or fields.take("safety_identifier")
    if isinstance(user, str):
        out["metadata"] = {"user_id": user}
    fields.take("stream_options")
    fields.drop("metadata", "store", "prompt_cache_key", "prompt_cache_retention", "service_tier")
    fields.drop("seed", "verbosity", "prediction", "safety_identifier", "top_logprobs")
    fields.refuse("Anthropic returns no log probabilities", "logprobs")
    fields.refuse(
        "Anthropic has no such parameter", "logit_bias", "frequency_penalty", "presence_penalty", harmless=(0, {})
    )
    fields.refuse("Anthropic returns a single choice", "n", harmless=(1,))
    fields.refuse("Anthropic outputs text only", "audio", "modalities", harmless=(["text"],))
    fields.refuse("deprecated in favor of 'tools'", "functions", "function_call", harmless=([], "none"))
    fields.refuse("web search runs at OpenAI", "web_search_options", harmless=())
    return TranslatedRequest(document=out, caller_document=document, dropped_fields=fields.close())


def _messages(caller_messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
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
            blocks = _assistant_blocks(message, path)
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


def _note_untranslated(caller_messages: list[dict[str, Any]], fields: FieldReader) -> None:
    """Note the fields of messages and parts that are dropped."""
    for message in caller_messages:
        fields.note_unknown(message, _MESSAGE_FIELDS, "messages")
        if message.get("reasoning_content") and not message.get("thinking_blocks"):
            fields.note_dropped("reasoning_content of earlier turns")
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            fields.note_unknown(part, _PART_FIELDS, "content")
            fields.note_unknown(part.get("image_url"), _IMAGE_FIELDS, "image_url")


def _assistant_blocks(message: dict[str, Any], path: str) -> list[dict[str, Any]]:
    if message.get("audio") or message.get("function_call"):
        raise NotTranslatable(path, "Anthropic has neither audio answers nor the deprecated function_call")
    thinking = message.get("thinking_blocks") or []
    blocks = [*require_objects(thinking, f"{path}.thinking_blocks"), *_blocks(message.get("content"), path)]
    if isinstance(message.get("refusal"), str) and message["refusal"]:
        blocks.append({"type": "text", "text": message["refusal"]})
    for index, call in enumerate(require_objects(message.get("tool_calls") or [], f"{path}.tool_calls")):
        function = call.get("function")
        if not isinstance(function, dict):
            raise NotTranslatable(f"{path}.tool_calls.{index}", "only function calls have a counterpart")
        blocks.append(
            {
                "type": "tool_use",
                "id": _call_id(call.get("id")),
                "name": function.get("name"),
                "input": _tool_input(function.get("arguments")),
            }
        )
    return blocks


def _tool_result(message: dict[str, Any], path: str) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list):
        content = _blocks(content, path)
    result = {"type": "tool_result", "tool_use_id": _call_id(message.get("tool_call_id")), "content": content or ""}
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
        return _with_cache_control({"type": "image", "source": _source(require_type(url, str, path), path)}, part)
    file = part.get("file")
    if kind == "file" and isinstance(file, dict) and isinstance(file.get("file_data"), str):
        document = {"type": "document", "source": _source(file["file_data"], path)}
        return _with_cache_control({**document, "title": file["filename"]} if file.get("filename") else document, part)
    if kind == "file":
        raise NotTranslatable(f"{path}.file", "the file is stored at OpenAI")
    raise NotTranslatable(path, f"Anthropic has no content type '{kind}'")


def _source(url: str, path: str) -> dict[str, str]:
    if not url.startswith("data:"):
        return {"type": "url", "url": url}
    match = _DATA_URL.match(url)
    if match is None:
        raise NotTranslatable(path, "data URLs must be base64 with a media type")
    return {"type": "base64", "media_type": match.group(1) or "application/octet-stream", "data": url[match.end() :]}


def _with_cache_control(block: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Copy cache breakpoints, which callers of Claude set in chat completions too."""
    if isinstance(part.get("cache_control"), dict):
        block["cache_control"] = part["cache_control"]
    return block


def _call_id(value: Any) -> str:
    """The id if Anthropic accepts it, else a hash of it, the same for a call and its result."""
    text = str(value)
    return (
        text
        if _CALL_ID_PATTERN.match(text)
        else f"call_{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:24]}"
    )


def _tool_input(arguments: Any) -> dict[str, Any]:
    """Arguments as an object; anything else is wrapped in one."""
    try:
        value = orjson.loads(arguments) if isinstance(arguments, str) and arguments else arguments or {}
    except orjson.JSONDecodeError:
        value = None
    return value if isinstance(value, dict) else {"invalid_arguments": arguments}


def _set_tools(fields: FieldReader, out: dict[str, Any]) -> None:
    tools = []
    for index, tool in enumerate(require_objects(fields.take("tools") or [], "tools")):
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, dict):
            raise NotTranslatable(f"tools.{index}", f"Anthropic has no tool type '{tool.get('type')}'")
        schema = function.get("parameters") or {"type": "object", "properties": {}}
        translated = {"name": function.get("name"), "input_schema": {"type": "object", **schema}}
        if function.get("description"):
            translated["description"] = function["description"]
        fields.note_unknown(function, _FUNCTION_FIELDS, "tools.function")
        if function.get("strict"):
            fields.note_dropped("tools.strict")
        tools.append(_with_cache_control(translated, {**tool, **function}))
    used = _used_tools(out["messages"])
    choice, parallel = fields.take("tool_choice"), fields.take("parallel_tool_calls")
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
        tool_choice = {"type": "tool", "name": choice["function"].get("name")}
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
        schema = (format_.get("json_schema") or {}).get("schema")
        out["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
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
