"""Translates Messages requests to chat completions (answers: chat_answer_to_messages.py)."""

from collections.abc import Iterator
from typing import Any

from ...values.errors import NotTranslatable
from .. import lenient_json
from ..messages import UNSIGNED_SIGNATURE_PREFIX
from .chat_answer_to_messages import ChatToMessagesAnswer
from .efforts import OPENAI_BY_ANTHROPIC, effort_of_budget
from .fields import FieldReader, carried, dropped, mapped, refused, require_objects, require_type, table
from .schemas import with_members
from .short_names import fit_chat_call_ids, tool_names
from .translated import CallerTool, TranslatedRequest

_STOP_SEQUENCES_MAX = 4
_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
# Anthropic's own tools that are optional for the model, by the beginning of their type; dropped beside a caller's tools.
_DROPPABLE_TOOL_TYPES = ("web_", "tool_search_")

REQUEST_FIELDS = table(
    carried("max_tokens", "temperature", "top_p"),
    mapped(
        model="the deployment's model",
        messages="`messages`; a tool's result becomes a message of its own, its images follow as the user's",
        system="a `system` message",
        stream="the same, with `stream_options.include_usage`",
        stop_sequences="`stop`; more than four are refused",
        tools="functions; Anthropic's own web and search tools are dropped beside others, else refused",
        tool_choice="the same",
        thinking="`reasoning_effort`, by its budget",
        output_config="`reasoning_effort` (`xhigh`, `max`: `high`), where thinking is on; `response_format`",
        output_format="`response_format`",
    ),
    dropped("a label", "metadata"),
    dropped("a hint", "service_tier", "cache_control", "betas", "speed", "diagnostics", "context_management"),
    refused("it refers to a resource at Anthropic", "container", "mcp_servers", "inference_geo"),
    refused("chat completions have no such parameter, but at litellm", "top_k"),
)
BLOCK_FIELDS = table(
    carried("type", "text"),
    mapped(
        id="`tool_calls.id`",
        name="`tool_calls.function.name`",
        input="`tool_calls.function.arguments`",
        tool_use_id="`tool_call_id`",
        content="a tool message",
        is_error="the result begins with `Error:`",
        source="`image_url`, `file` or text; files by id are refused",
        title="the file's name",
        tool_name="text",
        cache_control="the same at litellm, else dropped",
        thinking="`reasoning_content` where the model requires it back, else dropped; signed: litellm alone",
        signature="litellm alone",
        data="litellm alone",
        citations="dropped where enabled",
    ),
)
TOOL_FIELDS = table(
    carried("name", "description"),
    mapped(
        type="`function`",
        input_schema="`parameters`, with `properties` in every object",
        cache_control="the same at litellm, else dropped",
    ),
)
OUTPUT_CONFIG_FIELDS = table(mapped(effort="`reasoning_effort`", format="`response_format`"))
THINKING_FIELDS = table(
    mapped(type="`reasoning_effort`", budget_tokens="`reasoning_effort`"), dropped("a hint", "display")
)
NESTED_FIELDS = {
    "messages.content": BLOCK_FIELDS,
    "tools": TOOL_FIELDS,
    "output_config": OUTPUT_CONFIG_FIELDS,
    "thinking": THINKING_FIELDS,
}


def translate_request(document: dict[str, Any], *, extended: bool) -> TranslatedRequest:
    """Translate the request to chat completions. Raises NotTranslatable naming the field."""
    fields = FieldReader(document, REQUEST_FIELDS)
    fields.take("model")
    system = fields.take("system")
    caller_messages = require_objects(fields.take("messages"), "messages")
    offered = _offered_tools(fields)
    names = tool_names({*offered, *_called_tools(caller_messages)}, str)
    history = _History(fields, names, extended)
    if system:
        history.messages.append({"role": "system", "content": history.parts(system, "system")})
    for index, message in enumerate(caller_messages):
        history.add(message, f"messages.{index}")
    messages = history.messages
    if not extended:
        # litellm keeps Gemini's thought signatures in the ids.
        messages = fit_chat_call_ids(messages)
    out: dict[str, Any] = {"messages": messages}
    if fields.take("stream"):
        out |= {"stream": True, "stream_options": {"include_usage": True}}
    fields.carry(out)
    if extended and (top_k := fields.take("top_k")) is not None:
        out["top_k"] = top_k
    stops = fields.take("stop_sequences") or []
    if len(stops) > _STOP_SEQUENCES_MAX:
        raise NotTranslatable("stop_sequences", f"chat completions allow at most {_STOP_SEQUENCES_MAX}")
    if stops:
        out["stop"] = stops
    _set_tools(fields, out, offered, names, extended)
    _set_reasoning_and_format(fields, out)
    return TranslatedRequest(
        document=out,
        caller_document=document,
        dropped_fields=fields.close(),
        caller_tools={short: CallerTool(name=name) for name, short in names.items() if name != short},
        reasoning=history.reasoning,
    )


class _History:
    """Translates the messages one by one; `reasoning` is the unsigned thinking of assistant messages, by their place."""

    def __init__(self, fields: FieldReader, names: dict[str, str], extended: bool) -> None:
        self.messages: list[dict[str, Any]] = []
        self.reasoning: dict[int, str] = {}
        self._fields, self._names, self._extended = fields, names, extended

    def add(self, message: dict[str, Any], path: str) -> None:
        """Add the chat messages that a message amounts to."""
        role, content = message.get("role"), message.get("content")
        for block in content if isinstance(content, list) else ():
            self._fields.check(block, BLOCK_FIELDS, path, "content")
        if isinstance(content, str):
            self.messages.append({"role": role, "content": content})
        elif role == "assistant":
            self._add_assistant(require_objects(content, f"{path}.content"), path)
        elif role == "system":
            self.messages.append({"role": role, "content": self.parts(content, path)})
        else:
            self._add_user(require_objects(content, f"{path}.content"), path)

    def parts(self, content: Any, path: str) -> Any:
        """Return text, or content parts."""
        if isinstance(content, str):
            return content
        blocks = require_objects(content, path)
        return _text_or_parts([self._part(block, f"{path}.{index}") for index, block in enumerate(blocks)])

    def _add_user(self, blocks: list[dict[str, Any]], path: str) -> None:
        """Tool results first, each a message of its own; their images follow with the other content."""
        user_parts: list[dict[str, Any]] = []
        for index, block in enumerate(blocks):
            if block.get("type") == "tool_result":
                self._add_tool_result(block, f"{path}.content.{index}", user_parts)
        user_parts += [
            self._part(block, f"{path}.content.{index}")
            for index, block in enumerate(blocks)
            if block.get("type") != "tool_result"
        ]
        if user_parts:
            self.messages.append({"role": "user", "content": _text_or_parts(user_parts)})

    def _add_tool_result(self, block: dict[str, Any], path: str, user_parts: list[dict[str, Any]]) -> None:
        """Add the tool message of a result; parts that it cannot hold are added to `user_parts`."""
        content, texts = block.get("content"), []
        if isinstance(content, str):
            texts.append(content)
        for index, part in enumerate(content if isinstance(content, list) else ()):
            translated = self._part(part, f"{path}.content.{index}")
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
        self.messages.append(self._with_cache_control(message, block))

    def _add_assistant(self, blocks: list[dict[str, Any]], path: str) -> None:
        texts: list[dict[str, Any]] = []
        calls: list[dict[str, Any]] = []
        signed: list[dict[str, Any]] = []
        reasoning: list[str] = []
        for index, block in enumerate(blocks):
            kind = block.get("type")
            if kind == "tool_use":
                arguments = lenient_json.dumps(block.get("input") or {}).decode()
                function = {"name": self._names[str(block.get("name"))], "arguments": arguments}
                calls.append({"id": block.get("id"), "type": "function", "function": function})
                if "cache_control" in block:
                    self._fields.note_dropped("cache_control")
            elif kind in ("thinking", "redacted_thinking"):
                if self._is_signed(block, f"{path}.content.{index}"):
                    signed.append(block)
                else:
                    reasoning.append(str(block.get("thinking") or ""))
            else:
                texts.append(self._part(block, f"{path}.content.{index}"))
        message: dict[str, Any] = {
            "role": "assistant",
            "content": _text_or_parts(texts) if texts else None if calls else "",
        }
        if calls:
            message["tool_calls"] = calls
        if signed:
            message["thinking_blocks"] = signed
        if reasoning:
            self.reasoning[len(self.messages)] = "".join(reasoning)
        self.messages.append(message)

    def _is_signed(self, block: dict[str, Any], path: str) -> bool:
        """Whether thinking has a provider's signature, which only an extended target takes. Raises NotTranslatable."""
        if str(block.get("signature") or "").startswith(UNSIGNED_SIGNATURE_PREFIX):
            return False
        if not self._extended:
            raise NotTranslatable(path, "signed thinking is readable only by the provider that issued it")
        return True

    def _part(self, block: Any, path: str) -> dict[str, Any]:
        kind = require_type(block, dict, path).get("type")
        if kind == "text":
            text = require_type(block.get("text"), str, f"{path}.text")
            return self._with_cache_control({"type": "text", "text": text}, block)
        if kind == "tool_reference":
            # Chat completions offer all tools at once, so only the name of the found one matters.
            name = str(block.get("tool_name"))
            return {"type": "text", "text": f"The tool {self._names.get(name, name)} is available."}
        source = block.get("source") if isinstance(block.get("source"), dict) else {}
        if source.get("type") == "file":
            raise NotTranslatable(f"{path}.source", "the file is stored at Anthropic")
        if kind == "image" and source.get("type") in ("base64", "url"):
            url = source.get("url") or f"data:{source.get('media_type')};base64,{source.get('data')}"
            return self._with_cache_control({"type": "image_url", "image_url": {"url": url}}, block)
        if kind == "document":
            return self._with_cache_control(_document_part(block, source, path), block)
        raise NotTranslatable(path, f"chat completions have no block type '{kind}'")

    def _with_cache_control(self, part: dict[str, Any], block: dict[str, Any]) -> dict[str, Any]:
        if "cache_control" in block:
            if self._extended:
                part["cache_control"] = block["cache_control"]
            else:
                self._fields.note_dropped("cache_control")
        if isinstance(block.get("citations"), dict) and block["citations"].get("enabled"):
            self._fields.note_dropped("citations")
        return part


def _text_or_parts(parts: list[dict[str, Any]]) -> Any:
    """Plain text where all parts are text, the form that every server accepts; else the parts."""
    if all(part.keys() == {"type", "text"} for part in parts):
        return "\n\n".join(part["text"] for part in parts)
    return parts


def _document_part(block: dict[str, Any], source: dict[str, Any], path: str) -> dict[str, Any]:
    title = str(block.get("title") or "document.pdf")
    if source.get("type") == "text":
        return {"type": "text", "text": f"<document title={title!r}>\n{source.get('data')}\n</document>"}
    if source.get("type") == "base64":
        data = f"data:{source.get('media_type')};base64,{source.get('data')}"
        return {"type": "file", "file": {"filename": title, "file_data": data}}
    raise NotTranslatable(f"{path}.source", f"chat completions have no document source '{source.get('type')}'")


def _called_tools(caller_messages: list[dict[str, Any]]) -> Iterator[str]:
    """Names of the tools that the history calls."""
    for message in caller_messages:
        content = message.get("content")
        for block in content if isinstance(content, list) else ():
            if isinstance(block, dict) and block.get("type") == "tool_use":
                yield str(block.get("name"))


def _offered_tools(fields: FieldReader) -> dict[str, dict[str, Any]]:
    """The caller's tools by name, without their repetitions. Raises NotTranslatable."""
    offered: dict[str, dict[str, Any]] = {}
    tools = require_objects(fields.take("tools") or [], "tools")
    has_custom_tools = any(tool.get("type", "custom") == "custom" for tool in tools)
    for index, tool in enumerate(tools):
        kind = tool.get("type") or "custom"
        if kind != "custom":
            if str(kind).startswith(_DROPPABLE_TOOL_TYPES) and has_custom_tools:
                # Optional for the model, and other tools remain.
                fields.note_dropped(f"tools.{kind}")
                continue
            raise NotTranslatable(f"tools.{index}", f"'{kind}' runs at Anthropic or requires its models")
        fields.check(tool, TOOL_FIELDS, f"tools.{index}", "tools")
        name = str(tool.get("name"))
        if offered.setdefault(name, tool) != tool:
            raise NotTranslatable(f"tools.{index}", f"two different tools have the name '{name[:64]}'")
    return offered


def _set_tools(
    fields: FieldReader, out: dict[str, Any], offered: dict[str, dict[str, Any]], names: dict[str, str], extended: bool
) -> None:
    tools = []
    for name, tool in offered.items():
        schema = with_members(tool.get("input_schema") or {"type": "object"})
        function = {"name": names[name], "parameters": schema}
        if tool.get("description"):
            function["description"] = tool["description"]
        tools.append({"type": "function", "function": function})
        if "cache_control" in tool:
            if extended:
                tools[-1]["cache_control"] = tool["cache_control"]
            else:
                fields.note_dropped("cache_control")
    if tools:
        out["tools"] = tools
    choice = fields.take("tool_choice")
    if isinstance(choice, dict) and tools:
        if choice.get("type") != "tool":
            out["tool_choice"] = _TOOL_CHOICES.get(str(choice.get("type")), "auto")
        elif choice.get("name") in offered:
            out["tool_choice"] = {"type": "function", "function": {"name": names[choice["name"]]}}
        else:
            raise NotTranslatable("tool_choice", "it names a tool that is dropped in translation")
        if choice.get("disable_parallel_tool_use"):
            out["parallel_tool_calls"] = False


def _set_reasoning_and_format(fields: FieldReader, out: dict[str, Any]) -> None:
    """Set reasoning_effort and response_format. Providers drop the effort for models that do not reason."""
    config = require_type(fields.take("output_config") or {}, dict, "output_config")
    thinking = require_type(fields.take("thinking") or {}, dict, "thinking")
    effort = OPENAI_BY_ANTHROPIC.get(str(config.get("effort")))
    is_on = bool(thinking) and thinking.get("type") != "disabled"
    if config.get("effort") is not None and (effort is None or not thinking):
        fields.note_dropped("output_config.effort")
    if is_on and effort is None and thinking.get("type") == "enabled":
        effort = effort_of_budget(thinking.get("budget_tokens"))
    if is_on and effort is not None:
        out["reasoning_effort"] = effort
    elif is_on:
        fields.note_dropped("thinking")
    fields.check(config, OUTPUT_CONFIG_FIELDS, "output_config", "output_config")
    fields.check(thinking, THINKING_FIELDS, "thinking", "thinking")
    format_ = config.get("format") or fields.take("output_format")
    fields.take("output_format")
    if isinstance(format_, dict):
        schema = with_members(format_.get("schema"))
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
