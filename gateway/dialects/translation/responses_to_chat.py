"""A Responses caller before a deployment that speaks chat completions: the request. The way back is responses_back.py."""

import base64
import binascii
import re
from typing import Any

import orjson

from ...values.errors import NotTranslatable
from ..responses import SEALED_REASONING_PREFIX
from .chat_to_responses import ChatToResponsesAnswer
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
# Longest name of a function that OpenAI takes.
_FUNCTION_NAME_CHARS_MAX = 64
_INVALID_NAME_CHARS = re.compile(r"[^a-zA-Z0-9_-]")
# Tools that run at OpenAI. Where others are offered too, leaving out an offer that the model may or may not take up
# changes no answer's meaning, and the caller is told.
_CALLER_TOOL_TYPES = ("function", "custom", "namespace")
_DROPPABLE_TOOL_TYPES = ("web_search", "web_search_preview", "tool_search")


def translate_request(document: dict[str, Any], *, extended: bool) -> TranslatedRequest:
    """The request as chat completions. Raises NotCarriable naming the field."""
    fields = FieldReader(document)
    fields.take("model")
    tools: dict[str, tuple[str, str, str]] = {}
    given = fields.take("input")
    items = [] if isinstance(given, str) else require_objects(given or [], "input")
    out: dict[str, Any] = {"messages": _messages(fields, given, items, extended)}
    if fields.take("stream"):
        out |= {"stream": True, "stream_options": {"include_usage": True}}
    for name, theirs in (("max_output_tokens", "max_tokens"), ("temperature", "temperature"), ("top_p", "top_p")):
        value = fields.take(name)
        if value is not None:
            out[theirs] = value
    _set_tools(fields, items, out, tools)
    _set_response_format(fields, out)
    reasoning = fields.take("reasoning") or {}
    if require_type(reasoning, dict, "reasoning").get("effort") not in (None, "none"):
        out["reasoning_effort"] = reasoning["effort"]
    fields.note_unknown(reasoning, _REASONING_FIELDS, "reasoning")
    # Kept by the way back (responses_back.py) and by the exchange.
    for wanted in fields.take("include") or []:
        if wanted != "reasoning.encrypted_content":
            fields.note_dropped(f"include.{wanted}")
    fields.take("store")
    fields.drop("metadata", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
    fields.drop("service_tier", "truncation", "stream_options", "client_metadata", "context_management")
    fields.drop("max_tool_calls")
    lies = "it names something that lies with OpenAI"
    fields.refuse(lies, "previous_response_id", "conversation", "prompt", harmless=())
    fields.refuse("chat completions answer while one waits", "background")
    fields.refuse("probabilities are not carried over", "top_logprobs")
    return TranslatedRequest(document=out, caller_document=document, dropped_fields=fields.close(), caller_tools=tools)


def answer_translator(translated: TranslatedRequest, *, answer_id: str, created: int) -> ChatToResponsesAnswer:
    """The way back of one answer."""
    return ChatToResponsesAnswer(translated, answer_id, created)


def _messages(fields: FieldReader, given: Any, items: list[dict[str, Any]], extended: bool) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    instructions = fields.take("instructions")
    if instructions:
        messages.append({"role": "system", "content": require_type(instructions, str, "instructions")})
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    thoughts: list[dict[str, Any]] = []
    for place, item in enumerate(items):
        _add_item(item, f"input.{place}", messages, thoughts, fields, extended)
    if thoughts:
        fields.note_dropped("reasoning of earlier turns")
    return messages


def _add_item(
    item: dict[str, Any],
    path: str,
    messages: list[dict[str, Any]],
    thoughts: list[dict[str, Any]],
    fields: FieldReader,
    extended: bool,
) -> None:
    kind = item.get("type") or "message"
    fields.note_unknown(item, _ITEM_FIELDS, "input")
    if kind == "message":
        role = "system" if item.get("role") in _SYSTEM_ROLES else item.get("role")
        content = _content(item.get("content"), f"{path}.content")
        if role == "assistant":
            _assistant_turn(messages, thoughts)["content"] = content
        else:
            if thoughts:
                # Reasoning that led to nothing belongs to no later turn.
                fields.note_dropped("reasoning of earlier turns")
                thoughts.clear()
            messages.append({"role": role, "content": content})
    elif kind in ("function_call", "custom_tool_call"):
        arguments = item.get("arguments") if kind == "function_call" else _wrap_free_text(item.get("input"))
        name = _flat_tool_name(item.get("namespace"), item.get("name"))
        call = {
            "id": item.get("call_id"),
            "type": "function",
            "function": {"name": name, "arguments": arguments or "{}"},
        }
        _assistant_turn(messages, thoughts, calling=True).setdefault("tool_calls", []).append(call)
    elif kind in ("function_call_output", "custom_tool_call_output"):
        _add_tool_output(item, path, messages)
    elif kind == "reasoning":
        _add_reasoning(item, path, thoughts, fields, extended)
    elif kind != "additional_tools":
        raise NotTranslatable(path, f"chat completions have no item like '{kind}'")


def _assistant_turn(
    messages: list[dict[str, Any]], thoughts: list[dict[str, Any]], *, calling: bool = False
) -> dict[str, Any]:
    """The assistant's turn that an item belongs to: calls that follow text or other calls are one turn with it."""
    last = messages[-1] if messages else {}
    if last.get("role") == "assistant" and (calling or last.get("content") is None):
        if thoughts:
            last.setdefault("thinking_blocks", []).extend(thoughts)
            thoughts.clear()
        return last
    turn: dict[str, Any] = {"role": "assistant", "content": None}
    if thoughts:
        turn["thinking_blocks"] = thoughts.copy()
        thoughts.clear()
    messages.append(turn)
    return turn


def _add_reasoning(
    item: dict[str, Any], path: str, thoughts: list[dict[str, Any]], fields: FieldReader, extended: bool
) -> None:
    sealed = item.get("encrypted_content")
    blocks = unseal_reasoning(sealed) if isinstance(sealed, str) else []
    if blocks is None:
        raise NotTranslatable(
            f"{path}.encrypted_content", "sealed reasoning can be read by the provider that wrote it only"
        )
    if extended and blocks:
        thoughts += blocks
    elif blocks:
        raise NotTranslatable(path, "signed thinking can be read by the provider that wrote it only")
    else:
        fields.note_dropped("reasoning of earlier turns")


def unseal_reasoning(text: str) -> list[dict[str, Any]] | None:
    """The thinking blocks in a seal of ours, None if it is somebody else's."""
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
    for place, part in enumerate(require_objects(output, f"{path}.output") if isinstance(output, list) else ()):
        translated = _part(part, f"{path}.output.{place}")
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
    parts = [_part(part, f"{path}.{place}") for place, part in enumerate(require_objects(content, path))]
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
        raise NotTranslatable(f"{path}.file_id", "the file lies with OpenAI")
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        image = {"url": part["image_url"]}
        return {"type": "image_url", "image_url": {**image, "detail": part["detail"]} if part.get("detail") else image}
    if kind == "input_file" and isinstance(part.get("file_data"), str):
        file = {"filename": part.get("filename") or "document.pdf", "file_data": part["file_data"]}
        return {"type": "file", "file": file}
    raise NotTranslatable(path, f"chat completions have no part like '{kind}'")


def _set_tools(
    fields: FieldReader, items: list[dict[str, Any]], out: dict[str, Any], known: dict[str, tuple[str, str, str]]
) -> None:
    """Tools stand in a field of their own, or among the input: newer Codex does so."""
    offered: list[dict[str, Any]] = []
    given = require_objects(fields.take("tools") or [], "tools")
    for item in items:
        given = (
            given + require_objects(item.get("tools") or [], "input")
            if item.get("type") == "additional_tools"
            else given
        )
    for place, tool in enumerate(given):
        kind, path = tool.get("type"), f"tools.{place}"
        if kind == "namespace":
            for inner in require_objects(tool.get("tools") or [], path):
                offered.append(_function_tool(inner, path, str(tool.get("name")), known, fields))
        elif kind in ("function", "custom"):
            offered.append(_function_tool(tool, path, "", known, fields))
        elif kind in _DROPPABLE_TOOL_TYPES and any(one.get("type") in _CALLER_TOOL_TYPES for one in given):
            fields.note_dropped(f"tools.{kind}")
        else:
            raise NotTranslatable(path, f"'{kind}' runs at OpenAI or needs its models")
    if offered:
        out["tools"] = offered
    choice, parallel = fields.take("tool_choice"), fields.take("parallel_tool_calls")
    if not offered:
        return
    if isinstance(choice, str):
        out["tool_choice"] = choice
    elif isinstance(choice, dict):
        if choice.get("type") not in ("function", "custom"):
            raise NotTranslatable("tool_choice", f"chat completions have no choice like '{choice.get('type')}'")
        name = _flat_tool_name(choice.get("namespace"), choice.get("name"))
        out["tool_choice"] = {"type": "function", "function": {"name": name}}
    if parallel is not None:
        out["parallel_tool_calls"] = parallel


def _function_tool(
    tool: dict[str, Any], path: str, namespace: str, known: dict[str, tuple[str, str, str]], fields: FieldReader
) -> dict[str, Any]:
    """A function; tools that take free text become functions of one text."""
    kind, name = str(tool.get("type") or "function"), str(tool.get("name"))
    flat = _flat_tool_name(namespace, name)
    if kind not in ("function", "custom") or flat in known:
        raise NotTranslatable(path, f"'{kind}' tools, or two of one name, have no counterpart")
    known[flat] = (kind, name, namespace)
    fields.note_unknown(tool, _TOOL_FIELDS, "tools")
    function: dict[str, Any] = {"name": flat}
    if tool.get("description"):
        function["description"] = tool["description"]
    if kind == "custom":
        rules = tool.get("format")
        if isinstance(rules, dict) and rules.get("definition"):
            grammar = f"The input must follow this {rules.get('syntax') or ''} grammar:\n{rules['definition']}"
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
    """A tool's name among all namespaces, of letters that every provider takes."""
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
        raise NotTranslatable("text.format", f"chat completions have no format like '{kind}'")
