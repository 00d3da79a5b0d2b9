"""Translates Messages requests to chat completions (answers: chat_answer_to_messages.py)."""

from collections.abc import Iterator
from typing import Any

import orjson

from ...values.errors import NotTranslatable
from ..messages import UNSIGNED_SIGNATURE_PREFIX
from .chat_answer_to_messages import ChatToMessagesAnswer
from .translated import FieldReader, TranslatedRequest, require_objects, require_type

# Upper bounds, in thinking tokens, of what OpenAI's models spend at reasoning_effort low and medium.
_LOW_EFFORT_TOKENS_MAX, _MEDIUM_EFFORT_TOKENS_MAX = 2048, 8192
_STOP_SEQUENCES_MAX = 4
_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_BLOCK_FIELDS = frozenset(
    {
        "type", "text", "id", "name", "input", "tool_use_id", "content", "is_error", "signature", "thinking", "data",
        "source", "title", "cache_control", "citations", "tool_name",
    }
)  # fmt: skip
_OUTPUT_CONFIG_FIELDS = frozenset({"effort", "format"})
_TOOL_FIELDS = frozenset({"type", "name", "description", "input_schema", "cache_control"})


def translate_request(document: dict[str, Any], *, extended: bool) -> TranslatedRequest:
    """Translate the request to chat completions. Raises NotTranslatable naming the field."""
    fields = FieldReader(document)
    fields.take("model")
    out: dict[str, Any] = {"messages": list(_messages(fields, extended))}
    stream = bool(fields.take("stream"))
    if stream:
        out |= {"stream": True, "stream_options": {"include_usage": True}}
    for name in ("max_tokens", "temperature", "top_p"):
        value = fields.take(name)
        if value is not None:
            out[name] = value
    if extended and (top_k := fields.take("top_k")) is not None:
        out["top_k"] = top_k
    stops = fields.take("stop_sequences") or []
    if len(stops) > _STOP_SEQUENCES_MAX:
        raise NotTranslatable("stop_sequences", f"chat completions allow at most {_STOP_SEQUENCES_MAX}")
    if stops:
        out["stop"] = stops
    _set_tools(fields, out, extended)
    _set_reasoning_and_format(fields, out)
    fields.drop("metadata", "context_management", "service_tier", "cache_control", "betas", "speed", "diagnostics")
    fields.refuse("it refers to a resource at Anthropic", "container", "mcp_servers", "inference_geo")
    fields.refuse("chat completions have no such parameter", "top_k")
    return TranslatedRequest(document=out, caller_document=document, dropped_fields=fields.close())


def _messages(fields: FieldReader, extended: bool) -> Iterator[dict[str, Any]]:
    system = fields.take("system")
    if system:
        yield {"role": "system", "content": _parts(system, "system", fields, extended)}
    for index, message in enumerate(require_objects(fields.take("messages"), "messages")):
        path, role, content = f"messages.{index}", message.get("role"), message.get("content")
        for block in content if isinstance(content, list) else ():
            fields.note_unknown(block, _BLOCK_FIELDS, "content")
        if isinstance(content, str):
            yield {"role": role, "content": content}
        elif role == "assistant":
            yield _assistant_message(require_objects(content, f"{path}.content"), path, fields, extended)
        elif role == "system":
            yield {"role": role, "content": _parts(content, path, fields, extended)}
        else:
            yield from _user_messages(require_objects(content, f"{path}.content"), path, fields, extended)


def _user_messages(
    blocks: list[dict[str, Any]], path: str, fields: FieldReader, extended: bool
) -> Iterator[dict[str, Any]]:
    """Tool results first, each a message of its own; their images follow with the other content."""
    user_parts: list[dict[str, Any]] = []
    for index, block in enumerate(blocks):
        if block.get("type") == "tool_result":
            yield _tool_message(block, f"{path}.content.{index}", fields, user_parts, extended)
    user_parts += [
        _part(block, f"{path}.content.{index}", fields, extended)
        for index, block in enumerate(blocks)
        if block.get("type") != "tool_result"
    ]
    if user_parts:
        yield {"role": "user", "content": _text_or_parts(user_parts)}


def _tool_message(
    block: dict[str, Any], path: str, fields: FieldReader, user_parts: list[dict[str, Any]], extended: bool
) -> dict[str, Any]:
    """The tool message of a result; parts that it cannot hold are added to `user_parts`."""
    content, texts = block.get("content"), []
    if isinstance(content, str):
        texts.append(content)
    for index, part in enumerate(content if isinstance(content, list) else ()):
        translated = _part(part, f"{path}.content.{index}", fields, extended)
        if translated["type"] == "text":
            texts.append(translated["text"])
        else:
            texts.append(f"[{translated['type']} of this result: see the next user message]")
            user_parts += [{"type": "text", "text": f"Result of tool call {block.get('tool_use_id')}:"}, translated]
    text = "\n".join(texts)
    if block.get("is_error"):
        # Tool messages have no error flag.
        text = text if text.lower().startswith("error") else f"Error: {text}"
    message: dict[str, Any] = {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text}
    return _with_cache_control(message, block, fields, extended)


def _assistant_message(blocks: list[dict[str, Any]], path: str, fields: FieldReader, extended: bool) -> dict[str, Any]:
    texts: list[dict[str, Any]] = []
    calls, thinking = [], []
    for index, block in enumerate(blocks):
        kind = block.get("type")
        if kind == "tool_use":
            arguments = orjson.dumps(block.get("input") or {}).decode()
            function = {"name": block.get("name"), "arguments": arguments}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
            if "cache_control" in block:
                fields.note_dropped("cache_control")
        elif kind in ("thinking", "redacted_thinking"):
            thinking.append(_thinking_block(block, f"{path}.content.{index}", fields, extended))
        else:
            texts.append(_part(block, f"{path}.content.{index}", fields, extended))
    message: dict[str, Any] = {
        "role": "assistant",
        "content": _text_or_parts(texts) if texts else None if calls else "",
    }
    if calls:
        message["tool_calls"] = calls
    kept = [block for block in thinking if block is not None]
    if kept:
        message["thinking_blocks"] = kept
    return message


def _thinking_block(block: dict[str, Any], path: str, fields: FieldReader, extended: bool) -> dict[str, Any] | None:
    """Signed thinking, for an extended target; unsigned thinking of the gateway is dropped. Raises NotTranslatable."""
    if str(block.get("signature") or "").startswith(UNSIGNED_SIGNATURE_PREFIX):
        fields.note_dropped("thinking (unsigned, of earlier turns)")
        return None
    if not extended:
        raise NotTranslatable(path, "signed thinking is readable only by the provider that issued it")
    return block


def _parts(content: Any, path: str, fields: FieldReader, extended: bool) -> Any:
    if isinstance(content, str):
        return content
    blocks = require_objects(content, path)
    return _text_or_parts([_part(block, f"{path}.{index}", fields, extended) for index, block in enumerate(blocks)])


def _text_or_parts(parts: list[dict[str, Any]]) -> Any:
    """Plain text where all parts are text, the form that every server accepts; else the parts."""
    if all(part.keys() == {"type", "text"} for part in parts):
        return "\n\n".join(part["text"] for part in parts)
    return parts


def _part(block: Any, path: str, fields: FieldReader, extended: bool) -> dict[str, Any]:
    kind = require_type(block, dict, path).get("type")
    if kind == "text":
        return _with_cache_control(
            {"type": "text", "text": require_type(block.get("text"), str, f"{path}.text")}, block, fields, extended
        )
    if kind == "tool_reference":
        # Chat completions offer all tools at once, so only the name of the found one matters.
        return {"type": "text", "text": f"The tool {block.get('tool_name')} is available."}
    source = block.get("source") if isinstance(block.get("source"), dict) else {}
    if source.get("type") == "file":
        raise NotTranslatable(f"{path}.source", "the file is stored at Anthropic")
    if kind == "image" and source.get("type") in ("base64", "url"):
        url = source.get("url") or f"data:{source.get('media_type')};base64,{source.get('data')}"
        return _with_cache_control({"type": "image_url", "image_url": {"url": url}}, block, fields, extended)
    if kind == "document":
        return _with_cache_control(_document_part(block, source, path), block, fields, extended)
    raise NotTranslatable(path, f"chat completions have no block type '{kind}'")


def _document_part(block: dict[str, Any], source: dict[str, Any], path: str) -> dict[str, Any]:
    title = str(block.get("title") or "document.pdf")
    if source.get("type") == "text":
        return {"type": "text", "text": f"<document title={title!r}>\n{source.get('data')}\n</document>"}
    if source.get("type") == "base64":
        data = f"data:{source.get('media_type')};base64,{source.get('data')}"
        return {"type": "file", "file": {"filename": title, "file_data": data}}
    raise NotTranslatable(f"{path}.source", f"chat completions have no document source '{source.get('type')}'")


def _with_cache_control(
    part: dict[str, Any], block: dict[str, Any], fields: FieldReader, extended: bool
) -> dict[str, Any]:
    if "cache_control" in block:
        if extended:
            part["cache_control"] = block["cache_control"]
        else:
            fields.note_dropped("cache_control")
    if (block.get("citations") or {}).get("enabled") if isinstance(block.get("citations"), dict) else False:
        fields.note_dropped("citations")
    return part


def _set_tools(fields: FieldReader, out: dict[str, Any], extended: bool) -> None:
    tools = []
    caller_tools = require_objects(fields.take("tools") or [], "tools")
    has_custom_tools = any(tool.get("type", "custom") == "custom" for tool in caller_tools)
    for index, tool in enumerate(caller_tools):
        kind = tool.get("type", "custom")
        if kind != "custom":
            if str(kind).startswith("web_") and has_custom_tools:
                # Optional for the model, and other tools remain.
                fields.note_dropped(f"tools.{kind}")
                continue
            raise NotTranslatable(f"tools.{index}", f"'{kind}' runs at Anthropic or requires its models")
        fields.note_unknown(tool, _TOOL_FIELDS, "tools")
        function = {"name": tool.get("name"), "parameters": tool.get("input_schema") or {"type": "object"}}
        if tool.get("description"):
            function["description"] = tool["description"]
        tools.append(_with_cache_control({"type": "function", "function": function}, tool, fields, extended))
    if tools:
        out["tools"] = tools
    choice = fields.take("tool_choice")
    if isinstance(choice, dict) and tools:
        if choice.get("type") != "tool":
            out["tool_choice"] = _TOOL_CHOICES.get(str(choice.get("type")), "auto")
        elif choice.get("name") in {tool["function"]["name"] for tool in tools}:
            out["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
        else:
            raise NotTranslatable("tool_choice", "it names a tool that is dropped in translation")
        if choice.get("disable_parallel_tool_use"):
            out["parallel_tool_calls"] = False


def _set_reasoning_and_format(fields: FieldReader, out: dict[str, Any]) -> None:
    """Set reasoning_effort and response_format. Providers drop the effort for models that do not reason."""
    config = fields.take("output_config") or {}
    thinking = fields.take("thinking") or {}
    effort = config.get("effort")
    if thinking.get("type") == "disabled":
        effort = None
    elif effort is None and thinking.get("type") == "enabled":
        budget = thinking.get("budget_tokens") or 0
        effort = (
            "low" if budget <= _LOW_EFFORT_TOKENS_MAX else "medium" if budget <= _MEDIUM_EFFORT_TOKENS_MAX else "high"
        )
    if effort is not None and thinking:
        out["reasoning_effort"] = {"max": "high", "xhigh": "high"}.get(effort, effort)
    elif effort is not None:
        fields.note_dropped("output_config.effort")
    elif thinking and thinking.get("type") != "disabled":
        fields.note_dropped("thinking")
    fields.note_unknown(config, _OUTPUT_CONFIG_FIELDS, "output_config")
    format_ = config.get("format") or fields.take("output_format")
    fields.take("output_format")
    if isinstance(format_, dict):
        schema = format_.get("schema")
        json_schema = {"name": "answer", "schema": schema, "strict": _is_strict_schema(schema)}
        out["response_format"] = {"type": "json_schema", "json_schema": json_schema}


def _is_strict_schema(schema: Any) -> bool:
    """Whether OpenAI accepts a schema as strict: every object closed, every property required."""
    if isinstance(schema, list):
        return all(_is_strict_schema(entry) for entry in schema)
    if not isinstance(schema, dict):
        return True
    if isinstance(schema.get("properties"), dict):
        required = schema.get("required")
        if schema.get("additionalProperties") is not False or not isinstance(required, list):
            return False
        if set(required) != set(schema["properties"]):
            return False
    return all(_is_strict_schema(entry) for entry in schema.values())


def answer_translator(translated: TranslatedRequest, *, answer_id: str, created: int) -> ChatToMessagesAnswer:
    """Create the translator of one answer."""
    return ChatToMessagesAnswer(translated, answer_id)
