"""Translates Responses requests to chat completions (answers: chat_answer_to_responses.py)."""

import base64
import binascii
import re
from typing import Any

import orjson

from ...values.errors import NotTranslatable
from ..responses import SEALED_REASONING_PREFIX
from .chat_answer_to_responses import ChatToResponsesAnswer
from .translated import FieldReader, TranslatedRequest, require_objects, require_type

_SYSTEM_ROLES = ("system", "developer")
_TOOL_FIELDS = frozenset({"type", "name", "description", "parameters", "strict", "format"})
_REASONING_FIELDS = frozenset({"effort", "summary", "generate_summary"})
_ITEM_FIELDS = frozenset(
    {
        "type", "role", "content", "id", "status", "call_id", "name", "namespace", "arguments", "input", "output",
        "summary", "encrypted_content", "tools",
    }
)  # fmt: skip
# OpenAI's limit for function names.
_FUNCTION_NAME_CHARS_MAX = 64
_INVALID_NAME_CHARS = re.compile(r"[^a-zA-Z0-9_-]")
# Tools that run at OpenAI are dropped, and named in x-penstock-dropped, where a caller's tools remain: they are optional
# for the model.
_CALLER_TOOL_TYPES = ("function", "custom", "namespace")
_DROPPABLE_TOOL_TYPES = ("web_search", "web_search_preview", "tool_search")


def translate_request(document: dict[str, Any], *, extended: bool) -> TranslatedRequest:
    """Translate the request to chat completions. Raises NotTranslatable naming the field."""
    fields = FieldReader(document)
    fields.take("model")
    tools: dict[str, tuple[str, str, str]] = {}
    input_ = fields.take("input")
    items = [] if isinstance(input_, str) else require_objects(input_ or [], "input")
    out: dict[str, Any] = {"messages": _messages(fields, input_, items, extended)}
    if fields.take("stream"):
        out |= {"stream": True, "stream_options": {"include_usage": True}}
    for name, chat_name in (("max_output_tokens", "max_tokens"), ("temperature", "temperature"), ("top_p", "top_p")):
        value = fields.take(name)
        if value is not None:
            out[chat_name] = value
    _set_tools(fields, items, out, tools)
    _set_response_format(fields, out)
    reasoning = fields.take("reasoning") or {}
    if require_type(reasoning, dict, "reasoning").get("effort") not in (None, "none"):
        out["reasoning_effort"] = reasoning["effort"]
    fields.note_unknown(reasoning, _REASONING_FIELDS, "reasoning")
    # `include` and `store` are honored by chat_answer_to_responses.py and the pipeline.
    for name in fields.take("include") or []:
        if name != "reasoning.encrypted_content":
            fields.note_dropped(f"include.{name}")
    fields.take("store")
    fields.drop("metadata", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
    fields.drop("service_tier", "truncation", "stream_options", "client_metadata", "context_management")
    fields.drop("max_tool_calls")
    stored = "it refers to an object stored at OpenAI"
    fields.refuse(stored, "previous_response_id", "conversation", "prompt", harmless=())
    fields.refuse("chat completions have no background mode", "background")
    fields.refuse("log probabilities are not translated", "top_logprobs")
    return TranslatedRequest(document=out, caller_document=document, dropped_fields=fields.close(), caller_tools=tools)


def answer_translator(translated: TranslatedRequest, *, answer_id: str, created: int) -> ChatToResponsesAnswer:
    """Create the translator of one answer."""
    return ChatToResponsesAnswer(translated, answer_id, created)


def _messages(fields: FieldReader, input_: Any, items: list[dict[str, Any]], extended: bool) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    instructions = fields.take("instructions")
    if instructions:
        messages.append({"role": "system", "content": require_type(instructions, str, "instructions")})
    if isinstance(input_, str):
        return [*messages, {"role": "user", "content": input_}]
    thinking: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        _add_item(item, f"input.{index}", messages, thinking, fields, extended)
    if thinking:
        fields.note_dropped("reasoning of earlier turns")
    return messages


def _add_item(
    item: dict[str, Any],
    path: str,
    messages: list[dict[str, Any]],
    thinking: list[dict[str, Any]],
    fields: FieldReader,
    extended: bool,
) -> None:
    kind = item.get("type") or "message"
    fields.note_unknown(item, _ITEM_FIELDS, "input")
    if kind == "message":
        role = "system" if item.get("role") in _SYSTEM_ROLES else item.get("role")
        content = _content(item.get("content"), f"{path}.content")
        if role == "assistant":
            _assistant_turn(messages, thinking)["content"] = content
        else:
            if thinking:
                # Reasoning without output belongs to no later turn.
                fields.note_dropped("reasoning of earlier turns")
                thinking.clear()
            messages.append({"role": role, "content": content})
    elif kind in ("function_call", "custom_tool_call"):
        arguments = item.get("arguments") if kind == "function_call" else _wrap_free_text(item.get("input"))
        name = _flat_tool_name(item.get("namespace"), item.get("name"))
        call = {
            "id": item.get("call_id"),
            "type": "function",
            "function": {"name": name, "arguments": arguments or "{}"},
        }
        _assistant_turn(messages, thinking, calling=True).setdefault("tool_calls", []).append(call)
    elif kind in ("function_call_output", "custom_tool_call_output"):
        _add_tool_output(item, path, messages)
    elif kind == "reasoning":
        _add_reasoning(item, path, thinking, fields, extended)
    elif kind != "additional_tools":
        raise NotTranslatable(path, f"chat completions have no item type '{kind}'")


def _assistant_turn(
    messages: list[dict[str, Any]], thinking: list[dict[str, Any]], *, calling: bool = False
) -> dict[str, Any]:
    """The assistant message for an item: calls join the text or calls before them."""
    last = messages[-1] if messages else {}
    if last.get("role") == "assistant" and (calling or last.get("content") is None):
        if thinking:
            last.setdefault("thinking_blocks", []).extend(thinking)
            thinking.clear()
        return last
    turn: dict[str, Any] = {"role": "assistant", "content": None}
    if thinking:
        turn["thinking_blocks"] = thinking.copy()
        thinking.clear()
    messages.append(turn)
    return turn


def _add_reasoning(
    item: dict[str, Any], path: str, thinking: list[dict[str, Any]], fields: FieldReader, extended: bool
) -> None:
    sealed = item.get("encrypted_content")
    blocks = unseal_reasoning(sealed) if isinstance(sealed, str) else []
    if blocks is None:
        raise NotTranslatable(
            f"{path}.encrypted_content", "encrypted reasoning is readable only by the provider that issued it"
        )
    if extended and blocks:
        thinking += blocks
    elif blocks:
        raise NotTranslatable(path, "signed thinking is readable only by the provider that issued it")
    else:
        fields.note_dropped("reasoning of earlier turns")


def unseal_reasoning(text: str) -> list[dict[str, Any]] | None:
    """Return the thinking blocks sealed by the gateway, None if it did not seal them."""
    if not text.startswith(SEALED_REASONING_PREFIX):
        return None
    try:
        blocks = orjson.loads(base64.b64decode(text.removeprefix(SEALED_REASONING_PREFIX), validate=True))
    except (binascii.Error, orjson.JSONDecodeError):
        return None
    return blocks if isinstance(blocks, list) else None


def _add_tool_output(item: dict[str, Any], path: str, messages: list[dict[str, Any]]) -> None:
    output, texts, media = item.get("output"), [], []
    if isinstance(output, str):
        texts.append(output)
    for index, part in enumerate(require_objects(output, f"{path}.output") if isinstance(output, list) else ()):
        translated = _part(part, f"{path}.output.{index}")
        if translated["type"] == "text":
            texts.append(translated["text"])
        else:
            texts.append(f"[{translated['type']} of this result: see the next user message]")
            media += [{"type": "text", "text": f"Result of tool call {item.get('call_id')}:"}, translated]
    messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": "\n".join(texts)})
    if media:
        messages.append({"role": "user", "content": media})


def _content(content: Any, path: str) -> Any:
    if content is None or isinstance(content, str):
        return content or ""
    parts = [_part(part, f"{path}.{index}") for index, part in enumerate(require_objects(content, path))]
    if all(part["type"] == "text" for part in parts):
        return "\n\n".join(part["text"] for part in parts)
    return parts


def _part(part: dict[str, Any], path: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": require_type(part.get("text"), str, f"{path}.text")}
    if kind == "refusal":
        return {"type": "text", "text": str(part.get("refusal"))}
    if part.get("file_id"):
        raise NotTranslatable(f"{path}.file_id", "the file is stored at OpenAI")
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        image = {"url": part["image_url"]}
        return {"type": "image_url", "image_url": {**image, "detail": part["detail"]} if part.get("detail") else image}
    if kind == "input_file" and isinstance(part.get("file_data"), str):
        file = {"filename": part.get("filename") or "document.pdf", "file_data": part["file_data"]}
        return {"type": "file", "file": file}
    raise NotTranslatable(path, f"chat completions have no content type '{kind}'")


def _set_tools(
    fields: FieldReader, items: list[dict[str, Any]], out: dict[str, Any], caller_tools: dict[str, tuple[str, str, str]]
) -> None:
    """Set the tools, from `tools` and from the input (newer Codex); their callers' names go into `caller_tools`."""
    tools: list[dict[str, Any]] = []
    offered = require_objects(fields.take("tools") or [], "tools")
    for item in items:
        if item.get("type") == "additional_tools":
            offered = offered + require_objects(item.get("tools") or [], "input")
    has_caller_tools = any(tool.get("type") in _CALLER_TOOL_TYPES for tool in offered)
    for index, tool in enumerate(offered):
        kind, path = tool.get("type"), f"tools.{index}"
        if kind == "namespace":
            for inner in require_objects(tool.get("tools") or [], path):
                tools.append(_function_tool(inner, path, str(tool.get("name")), caller_tools, fields))
        elif kind in ("function", "custom"):
            tools.append(_function_tool(tool, path, "", caller_tools, fields))
        elif kind in _DROPPABLE_TOOL_TYPES and has_caller_tools:
            fields.note_dropped(f"tools.{kind}")
        else:
            raise NotTranslatable(path, f"'{kind}' runs at OpenAI or requires its models")
    if tools:
        out["tools"] = tools
    choice, parallel = fields.take("tool_choice"), fields.take("parallel_tool_calls")
    if not tools:
        return
    if isinstance(choice, str):
        out["tool_choice"] = choice
    elif isinstance(choice, dict):
        if choice.get("type") not in ("function", "custom"):
            raise NotTranslatable("tool_choice", f"chat completions have no tool choice '{choice.get('type')}'")
        name = _flat_tool_name(choice.get("namespace"), choice.get("name"))
        out["tool_choice"] = {"type": "function", "function": {"name": name}}
    if parallel is not None:
        out["parallel_tool_calls"] = parallel


def _function_tool(
    tool: dict[str, Any], path: str, namespace: str, caller_tools: dict[str, tuple[str, str, str]], fields: FieldReader
) -> dict[str, Any]:
    """A function tool; a free-text tool becomes a function of one string."""
    kind, name = str(tool.get("type") or "function"), str(tool.get("name"))
    flat = _flat_tool_name(namespace, name)
    if kind not in ("function", "custom") or flat in caller_tools:
        raise NotTranslatable(path, f"'{kind}' tools, or two of one name, have no counterpart")
    caller_tools[flat] = (kind, name, namespace)
    fields.note_unknown(tool, _TOOL_FIELDS, "tools")
    function: dict[str, Any] = {"name": flat}
    if tool.get("description"):
        function["description"] = tool["description"]
    if kind == "custom":
        format_ = tool.get("format")
        if isinstance(format_, dict) and format_.get("definition"):
            grammar = f"The input must follow this {format_.get('syntax') or ''} grammar:\n{format_['definition']}"
            function["description"] = f"{function.get('description', '')}\n\n{grammar}"
        function["parameters"] = {
            "type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"], "additionalProperties": False,
        }  # fmt: skip
        return {"type": "function", "function": function}
    function["parameters"] = tool.get("parameters") or {"type": "object", "properties": {}}
    if tool.get("strict") is not None:
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}


def _flat_tool_name(namespace: Any, name: Any) -> str:
    """A tool's name, unique among namespaces, in characters that every provider accepts."""
    flat = f"{namespace}__{name}" if namespace else str(name)
    return _INVALID_NAME_CHARS.sub("_", flat)[-_FUNCTION_NAME_CHARS_MAX:]


def _wrap_free_text(text: Any) -> str:
    return orjson.dumps({"input": text}).decode()


def _set_response_format(fields: FieldReader, out: dict[str, Any]) -> None:
    text = require_type(fields.take("text") or {}, dict, "text")
    format_ = text.get("format") or {}
    kind = format_.get("type")
    if text.get("verbosity"):
        fields.note_dropped("text.verbosity")
    if kind == "json_schema":
        schema = {name: format_[name] for name in ("name", "description", "schema", "strict") if name in format_}
        out["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif kind == "json_object":
        out["response_format"] = {"type": "json_object"}
    elif kind not in (None, "text"):
        raise NotTranslatable("text.format", f"chat completions have no response format '{kind}'")
