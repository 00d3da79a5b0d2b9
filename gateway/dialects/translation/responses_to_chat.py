"""Translates Responses requests to chat completions (answers: chat_answer_to_responses.py)."""

import base64
import binascii
from collections.abc import Iterator
from typing import Any

import orjson

from ...values.errors import NotTranslatable
from .. import lenient_json
from ..responses import SEALED_REASONING_PREFIX
from .chat_answer_to_responses import ChatToResponsesAnswer
from .efforts import OPENAI_EFFORTS
from .fields import FieldReader, carried, dropped, mapped, refused, require_objects, require_type, table
from .schemas import with_members
from .short_names import fit_chat_call_ids, tool_names
from .translated import CallerTool, TranslatedRequest

_SYSTEM_ROLES = ("system", "developer")
# Tools that run at OpenAI are dropped where a caller's tools remain: they are optional for the model.
_CALLER_TOOL_TYPES = (None, "function", "custom", "namespace")
_DROPPABLE_TOOL_TYPES = ("web_search", "web_search_preview", "tool_search")
# Items that offer tools, and records of what ran at OpenAI, whose result is the text after them.
_TOOL_ITEM_TYPES = ("additional_tools", "tool_search_output")
_RECORD_ITEM_TYPES = ("web_search_call", "tool_search_call", "image_generation_call")

REQUEST_FIELDS = table(
    carried("temperature", "top_p", "parallel_tool_calls"),
    mapped(
        model="the deployment's model",
        input="`messages`",
        instructions="a `system` message",
        stream="the same, with `stream_options.include_usage`",
        max_output_tokens="`max_tokens`",
        tools="functions; free-text tools have one text, namespaces become a prefix; hosted search is dropped beside others",
        tool_choice="the same",
        text="`response_format`",
        reasoning="`reasoning_effort`; unknown values are dropped",
        include="sealed reasoning; other names are dropped",
        store="the answer is stored by the gateway",
    ),
    dropped("a label", "metadata", "user", "safety_identifier", "client_metadata"),
    dropped(
        "a hint", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "service_tier", "stream_options"
    ),
    dropped("the history is sent whole", "truncation", "context_management"),
    dropped("no hosted tool runs", "max_tool_calls"),
    refused("it refers to an object stored at OpenAI", "previous_response_id", "conversation", "prompt", harmless=()),
    refused("chat completions have no background mode", "background"),
    refused("log probabilities are not translated", "top_logprobs"),
)
ITEM_FIELDS = table(
    carried("role", "arguments"),
    mapped(
        type="messages, calls and their results; hosted searches and images are dropped, other hosted calls refused",
        content="text, `image_url`, `file`",
        id="none is needed",
        status="none is needed",
        call_id="`tool_calls.id`, `tool_call_id`",
        name="`tool_calls.function.name`",
        namespace="a prefix of the name, as of the offered tool",
        input="`tool_calls.function.arguments`",
        output="a tool message; its images follow as the user's",
        summary="`reasoning_content` where the model requires it back, else dropped",
        encrypted_content="the gateway's own seal; a provider's is refused",
        tools="`tools`",
    ),
    dropped("a label", "phase", "execution"),
)
TOOL_FIELDS = table(
    carried("name", "description", "strict"),
    mapped(
        type="`function`",
        parameters="the same, with `properties` in every object",
        format="text of the description",
        tools="functions",
    ),
    dropped("all tools are offered at once", "defer_loading"),
)
REASONING_FIELDS = table(
    mapped(
        effort="`reasoning_effort`",
        summary="reasoning is returned as its summary",
        generate_summary="reasoning is returned as its summary",
    )
)
TEXT_FIELDS = table(mapped(format="`response_format`"), dropped("a hint", "verbosity"))
NESTED_FIELDS = {"input": ITEM_FIELDS, "tools": TOOL_FIELDS, "reasoning": REASONING_FIELDS, "text": TEXT_FIELDS}

# Names a tool: its namespace, "" without one, and its own name.
_ToolKey = tuple[str, str]


def translate_request(document: dict[str, Any], *, extended: bool) -> TranslatedRequest:
    """Translate the request to chat completions. Raises NotTranslatable naming the field."""
    fields = FieldReader(document, REQUEST_FIELDS)
    fields.take("model")
    input_ = fields.take("input")
    items = [] if isinstance(input_, str) else require_objects(input_ or [], "input")
    tools = _Tools(fields, items)
    history = _History(fields, tools, extended)
    instructions = fields.take("instructions")
    if instructions:
        history.messages.append({"role": "system", "content": require_type(instructions, str, "instructions")})
    if isinstance(input_, str):
        history.messages.append({"role": "user", "content": input_})
    for index, item in enumerate(items):
        history.add(item, f"input.{index}")
    history.end()
    messages = history.messages
    if not extended:
        # litellm keeps Gemini's thought signatures in the ids; Messages has a limit of its own.
        messages = fit_chat_call_ids(messages)
    out: dict[str, Any] = {"messages": messages}
    if fields.take("stream"):
        out |= {"stream": True, "stream_options": {"include_usage": True}}
    if (limit := fields.take("max_output_tokens")) is not None:
        out["max_tokens"] = limit
    if tools.offered:
        out["tools"] = list(tools.offered.values())
    tools.set_choice(fields, out)
    fields.carry(out)
    _set_response_format(fields, out)
    _set_effort(fields, out)
    # `include` and `store` are honored by chat_answer_to_responses.py and the pipeline.
    for name in fields.take("include") or []:
        if name != "reasoning.encrypted_content":
            fields.note_dropped(f"include.{name}")
    fields.take("store")
    return TranslatedRequest(
        document=out,
        caller_document=document,
        dropped_fields=fields.close(),
        caller_tools=tools.caller_tools,
        reasoning=history.reasoning,
    )


def answer_translator(translated: TranslatedRequest, *, answer_id: str, created: int) -> ChatToResponsesAnswer:
    """Create the translator of one answer."""
    return ChatToResponsesAnswer(translated, answer_id, created)


class _Tools:
    """The offered tools, and the names that they have in chat completions.

    offered: the functions, by namespace and name
    caller_tools: the caller's tools by the functions' names
    """

    def __init__(self, fields: FieldReader, items: list[dict[str, Any]]) -> None:
        self.offered: dict[_ToolKey, dict[str, Any]] = {}
        self._fields = fields
        definitions = list(self._definitions(items))
        keys = {key for key, _, _ in definitions}
        self._called = {key: self._offered_key(key, keys) for key in _called_tools(items)}
        self._names = tool_names({*keys, *self._called.values()}, _flat_name)
        self.caller_tools: dict[str, CallerTool] = {}
        for key, tool, path in definitions:
            self._offer(key, tool, path)

    def name_of(self, namespace: Any, name: Any) -> str:
        """Return the function's name of a tool that the history calls."""
        return self._names[self._called[_key_of(namespace, name)]]

    def set_choice(self, fields: FieldReader, out: dict[str, Any]) -> None:
        """Set the tool choice, if tools are offered."""
        choice = fields.take("tool_choice")
        if not self.offered:
            fields.take("parallel_tool_calls")
        elif isinstance(choice, str):
            out["tool_choice"] = choice
        elif isinstance(choice, dict):
            if choice.get("type") not in ("function", "custom"):
                raise NotTranslatable("tool_choice", f"chat completions have no tool choice '{choice.get('type')}'")
            key = self._offered_key(_key_of(choice.get("namespace"), choice.get("name")), set(self.offered))
            if key not in self.offered:
                raise NotTranslatable("tool_choice", "it names a tool that is not offered")
            out["tool_choice"] = {"type": "function", "function": {"name": self._names[key]}}

    def _definitions(self, items: list[dict[str, Any]]) -> Iterator[tuple[_ToolKey, dict[str, Any], str]]:
        """(key, definition, path) of each tool, from `tools` and from the input. Raises NotTranslatable."""
        offered = require_objects(self._fields.take("tools") or [], "tools")
        for item in items:
            if item.get("type") in _TOOL_ITEM_TYPES:
                offered = offered + require_objects(item.get("tools") or [], "input")
        has_caller_tools = any(tool.get("type") in _CALLER_TOOL_TYPES for tool in offered)
        for index, tool in enumerate(offered):
            kind, path = tool.get("type"), f"tools.{index}"
            if kind == "namespace":
                for inner in require_objects(tool.get("tools") or [], path):
                    yield _key_of(tool.get("name"), inner.get("name")), inner, path
            elif kind in _CALLER_TOOL_TYPES:
                yield _key_of("", tool.get("name")), tool, path
            elif kind in _DROPPABLE_TOOL_TYPES and has_caller_tools:
                self._fields.note_dropped(f"tools.{kind}")
            else:
                raise NotTranslatable(path, f"'{kind}' runs at OpenAI or requires its models")

    @staticmethod
    def _offered_key(key: _ToolKey, offered: set[_ToolKey]) -> _ToolKey:
        """The offered tool that a call means: OpenAI's calls of a deferred function name a namespace, too."""
        if key in offered:
            return key
        if ("", key[1]) in offered:
            return "", key[1]
        same_name = [other for other in offered if other[1] == key[1]]
        return same_name[0] if len(same_name) == 1 else key

    def _offer(self, key: _ToolKey, tool: dict[str, Any], path: str) -> None:
        """Add a function; a repetition is accepted if it is the same. Raises NotTranslatable."""
        kind = tool.get("type") or "function"
        if kind not in ("function", "custom"):
            raise NotTranslatable(path, f"'{kind}' tools have no counterpart")
        self._fields.check(tool, TOOL_FIELDS, path, "tools")
        name = self._names[key]
        function = _function(name, kind, tool)
        first = self.offered.setdefault(key, {"type": "function", "function": function})["function"]
        if {**first, "strict": None} != {**function, "strict": None}:
            raise NotTranslatable(path, f"two different tools have the name '{key[1][:64]}'")
        self.caller_tools[name] = CallerTool(name=key[1], kind=kind, namespace=key[0])


class _History:
    """Translates the input items one by one; `reasoning` is the unsigned reasoning of assistant messages, by place."""

    def __init__(self, fields: FieldReader, tools: _Tools, extended: bool) -> None:
        self.messages: list[dict[str, Any]] = []
        self.reasoning: dict[int, str] = {}
        self._fields, self._tools, self._extended = fields, tools, extended
        # Reasoning that waits for the output it led to.
        self._signed: list[dict[str, Any]] = []
        self._unsigned = ""

    def add(self, item: dict[str, Any], path: str) -> None:
        """Add what an item amounts to."""
        kind = item.get("type") or "message"
        self._fields.check(item, ITEM_FIELDS, path, "input")
        if kind == "message":
            self._add_message(item, path)
        elif kind in ("function_call", "custom_tool_call"):
            self._add_call(item, kind)
        elif kind in ("function_call_output", "custom_tool_call_output"):
            self._add_tool_output(item, path)
        elif kind == "reasoning":
            self._add_reasoning(item, path)
        elif kind in _RECORD_ITEM_TYPES:
            self._fields.note_dropped(f"input.{kind}")
        elif kind not in _TOOL_ITEM_TYPES:
            raise NotTranslatable(path, f"chat completions have no item type '{kind}'")

    def end(self) -> None:
        """Note reasoning without output, which belongs to no later turn."""
        if self._signed or self._unsigned:
            self._fields.note_dropped("reasoning of earlier turns")
        self._signed, self._unsigned = [], ""

    def _add_message(self, item: dict[str, Any], path: str) -> None:
        role = "system" if item.get("role") in _SYSTEM_ROLES else item.get("role")
        content = _content(item.get("content"), f"{path}.content")
        if role == "assistant":
            self._assistant_turn()["content"] = content
        else:
            self.end()
            self.messages.append({"role": role, "content": content})

    def _add_call(self, item: dict[str, Any], kind: str) -> None:
        arguments = item.get("arguments") if kind == "function_call" else _wrap_free_text(item.get("input"))
        function = {
            "name": self._tools.name_of(item.get("namespace"), item.get("name")),
            "arguments": arguments or "{}",
        }
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        self._assistant_turn(calling=True).setdefault("tool_calls", []).append(call)

    def _assistant_turn(self, *, calling: bool = False) -> dict[str, Any]:
        """The assistant message for an item: calls join the text or calls before them."""
        last = self.messages[-1] if self.messages else {}
        turn: dict[str, Any] = {"role": "assistant", "content": None}
        if last.get("role") == "assistant" and (calling or last.get("content") is None):
            turn = last
        else:
            self.messages.append(turn)
        if self._signed:
            turn.setdefault("thinking_blocks", []).extend(self._signed)
        if self._unsigned:
            place = len(self.messages) - 1
            self.reasoning[place] = self.reasoning.get(place, "") + self._unsigned
        self._signed, self._unsigned = [], ""
        return turn

    def _add_reasoning(self, item: dict[str, Any], path: str) -> None:
        sealed = item.get("encrypted_content")
        blocks = unseal_reasoning(sealed) if isinstance(sealed, str) else []
        if blocks is None:
            raise NotTranslatable(
                f"{path}.encrypted_content", "encrypted reasoning is readable only by the provider that issued it"
            )
        if blocks and not self._extended:
            raise NotTranslatable(path, "signed thinking is readable only by the provider that issued it")
        if blocks:
            self._signed += blocks
            return
        summary = item.get("summary")
        parts = [part for part in summary if isinstance(part, dict)] if isinstance(summary, list) else []
        text = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
        if not text:
            self._fields.note_dropped("reasoning of earlier turns")
        self._unsigned += text

    def _add_tool_output(self, item: dict[str, Any], path: str) -> None:
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
        self.messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": "\n".join(texts)})
        if media:
            self.messages.append({"role": "user", "content": media})


def unseal_reasoning(text: str) -> list[dict[str, Any]] | None:
    """Return the thinking blocks sealed by the gateway, None if it did not seal them."""
    if not text.startswith(SEALED_REASONING_PREFIX):
        return None
    try:
        blocks = orjson.loads(base64.b64decode(text.removeprefix(SEALED_REASONING_PREFIX), validate=True))
    except (binascii.Error, orjson.JSONDecodeError):
        return None
    return blocks if isinstance(blocks, list) else None


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


def _called_tools(items: list[dict[str, Any]]) -> set[_ToolKey]:
    """The tools that the history calls."""
    calls = (item for item in items if item.get("type") in ("function_call", "custom_tool_call"))
    return {_key_of(item.get("namespace"), item.get("name")) for item in calls}


def _key_of(namespace: Any, name: Any) -> _ToolKey:
    return str(namespace or ""), str(name)


def _flat_name(key: _ToolKey) -> str:
    namespace, name = key
    return f"{namespace}__{name}" if namespace else name


def _function(name: str, kind: str, tool: dict[str, Any]) -> dict[str, Any]:
    """A function; a free-text tool becomes a function of one string."""
    function: dict[str, Any] = {"name": name}
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
        return function
    function["parameters"] = with_members(tool.get("parameters") or {"type": "object"})
    if tool.get("strict") is not None:
        function["strict"] = tool["strict"]
    return function


def _wrap_free_text(text: Any) -> str:
    return lenient_json.dumps({"input": text}).decode()


def _set_effort(fields: FieldReader, out: dict[str, Any]) -> None:
    reasoning = require_type(fields.take("reasoning") or {}, dict, "reasoning")
    effort = reasoning.get("effort")
    if isinstance(effort, str) and effort in OPENAI_EFFORTS:
        out["reasoning_effort"] = effort
    elif effort is not None:
        fields.note_dropped("reasoning.effort (no such value)")
    fields.check(reasoning, REASONING_FIELDS, "reasoning", "reasoning")


def _set_response_format(fields: FieldReader, out: dict[str, Any]) -> None:
    text = require_type(fields.take("text") or {}, dict, "text")
    fields.check(text, TEXT_FIELDS, "text", "text")
    format_ = text.get("format") or {}
    kind = format_.get("type")
    if kind == "json_schema":
        schema = {name: format_[name] for name in ("name", "description", "strict") if name in format_}
        schema["schema"] = with_members(format_.get("schema"))
        out["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif kind == "json_object":
        out["response_format"] = {"type": "json_object"}
    elif kind not in (None, "text"):
        raise NotTranslatable("text.format", f"chat completions have no response format '{kind}'")
