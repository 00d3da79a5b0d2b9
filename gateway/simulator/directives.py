"""What to answer: one function from what was asked, in whatever dialect, to a reply with text, thinking and tool calls.

Three sources, the first that says something: the `sim` field of the body; a directive `[[sim {...}]]` in the newest user
text, which real clients can carry; what the request itself asks for (a schema, a tool). Both `sim` and directive may hold
`reply` (a chat message, or text), `text`, `thinking`, `tool_calls` ([{"name", "arguments"}], several = parallel),
`output_tokens`, `fault`, and `steps`: a list of such objects, one a turn, counted by the tool results since that text.
A fault happens `at` one model only if the order names one, and to the first `times` of equal bodies if it says how often.
"""

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .schema_instance import minimal_instance

_TEXT = "the agent reads the file, finds the cause, changes one line and runs the tests again until they pass. "
_WORDS = _TEXT.split(" ")
# Words of an answer for which nothing was ordered; however much usage is claimed, the longest text that is written.
_DEFAULT_WORDS, _MAX_WORDS = 40, 50_000
# OpenAI's rule of thumb for English text.
CHARS_PER_TOKEN = 4
_DEFAULT_THINKING = "The caller wants an answer; I look at what was given and say what I saw."
_TOOL_WORD = re.compile(r"\btools?\b", re.IGNORECASE)
# What opens an order inside a text; JSON and two closing brackets follow.
DIRECTIVE_OPEN = "[[sim "
_DECODER = json.JSONDecoder()
# What is left of a directive without steps once its turn is over; were the rest repeated, an agent would never end.
_PERSISTENT_KEYS = ("output_tokens", "fault")

Directive = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedTool:
    """A tool that the caller offers; `custom` ones take free text."""

    name: str
    schema: Any = None
    is_custom: bool = False
    namespace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRequest:
    """What a request asks for, whichever dialect said it.

    `text` is all user text since the model's last word, `prompt` the last part of it (clients put reminders before it);
    `results` are the tool results that nobody has answered yet; `step` counts turns with results since the newest text.
    """

    text: str = ""
    prompt: str = ""
    image_count: int = 0
    file_count: int = 0
    tool_results: tuple[str, ...] = ()
    step: int = 0
    tools: tuple[OfferedTool, ...] = ()
    # "auto", "none", "required", or "tool:NAME"
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    output_schema: Any = None
    wants_thinking: bool = False
    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedToolCall:
    """One tool call; with `id` "" the dialect mints one, `custom` means that the arguments are free text."""

    name: str
    arguments: str
    id: str = ""
    is_custom: bool = False
    namespace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedReply:
    """What is answered. `finish`: stop, length, tool_calls, content_filter. `message`: the chat message as ordered."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[SimulatedToolCall, ...] = ()
    finish_reason: str = "stop"
    message: dict[str, Any] | None = None


def is_complete(sim: Any) -> bool:
    """Whether a `sim` field leaves nothing open, so that the request need not be read."""
    return isinstance(sim, dict) and isinstance(sim.get("reply"), dict) and "steps" not in sim


def directive_for(sim: Any, asked: SimulatedRequest) -> Directive:
    """The order that a request carries, in its `sim` field or else in its text; nothing if it has none."""
    return _apply_step(sim, asked.step) if sim and isinstance(sim, dict) else directive_in(asked)


def directive_in(asked: SimulatedRequest) -> Directive:
    """The directive inside the newest user text; nothing if there is none, or its turn is over."""
    start = asked.text.rfind(DIRECTIVE_OPEN)
    if start < 0:
        return {}
    try:
        order, _ = _DECODER.raw_decode(asked.text, start + len(DIRECTIVE_OPEN))
    except ValueError:
        return {}
    if not isinstance(order, dict):
        return {}
    if asked.step and not isinstance(order.get("steps"), list):
        order = {name: value for name, value in order.items() if name in _PERSISTENT_KEYS}
    now = _apply_step(order, asked.step)
    # A model cannot call what it was not offered; clients quote the prompt in side requests without tools.
    offered = {tool.name for tool in asked.tools}
    calls = [call for call in now.get("tool_calls") or () if call.get("name") in offered]
    return {**now, "tool_calls": calls if asked.parallel_tool_calls else calls[:1]}


def reply_to(order: Directive, asked: SimulatedRequest) -> SimulatedReply:
    """The reply to one request."""
    order = _apply_step(order, asked.step)
    reply = _directed_reply(order, asked) or _default_reply(order, asked)
    # A message that was ordered is given as it is, but for calls, before which Anthropic demands thinking.
    if not reply.thinking and asked.wants_thinking and (reply.message is None or reply.tool_calls):
        reply = replace(reply, thinking=_DEFAULT_THINKING)
    fault = order.get("fault")
    if isinstance(fault, str) and fault.startswith("long_finish:"):
        reply = replace(reply, finish_reason=fault.removeprefix("long_finish:"))
    return reply


def _apply_step(order: Directive, step: int) -> Directive:
    """The order with the step that has come in place of its list of steps."""
    steps = order.get("steps")
    if not isinstance(steps, list):
        return order
    common = {name: value for name, value in order.items() if name != "steps"}
    return {**common, **(steps[step] if step < len(steps) else {})}


def _directed_reply(order: Directive, asked: SimulatedRequest) -> SimulatedReply | None:
    reply, text, calls = order.get("reply"), order.get("text"), order.get("tool_calls")
    thinking = str(order.get("thinking") or "")
    if isinstance(reply, dict):
        return _reply_from_message(reply)
    if isinstance(reply, str):
        text = reply
    if not calls and not isinstance(text, str):
        return None
    made = tuple(_tool_call(call, asked.tools) for call in calls or ())
    return SimulatedReply(
        text=text or "", thinking=thinking, tool_calls=made, finish_reason="tool_calls" if made else "stop"
    )


def _reply_from_message(reply: dict[str, Any]) -> SimulatedReply:
    """A reply ordered as a chat message, which chat words exactly as it is."""
    content = reply.get("content")
    calls = reply.get("tool_calls") or ()
    return SimulatedReply(
        text=content if isinstance(content, str) else "".join(part.get("text") or "" for part in content or ()),
        thinking=str(reply.get("thinking") or reply.get("reasoning_content") or ""),
        tool_calls=tuple(_tool_call(call, ()) for call in calls),
        finish_reason="tool_calls" if calls else "stop",
        message={"role": "assistant", "content": None, **reply},
    )


def _tool_call(call: Mapping[str, Any], tools: tuple[OfferedTool, ...]) -> SimulatedToolCall:
    """A call as ordered: {"name", "arguments"}, or the shape of a chat message's."""
    function = call.get("function") or call
    arguments, name = function.get("arguments"), str(function.get("name"))
    if not isinstance(arguments, str):
        arguments = json.dumps({} if arguments is None else arguments)
    tool = next((tool for tool in tools if tool.name == name), OfferedTool(name=name))
    return SimulatedToolCall(
        name=name, arguments=arguments, id=str(call.get("id") or ""), is_custom=tool.is_custom, namespace=tool.namespace
    )


def _default_reply(order: Directive, asked: SimulatedRequest) -> SimulatedReply:
    called = _tool_to_call(asked)
    if called is not None:
        arguments = "text" if called.is_custom else json.dumps(minimal_instance(called.schema))
        call = SimulatedToolCall(
            name=called.name, arguments=arguments, is_custom=called.is_custom, namespace=called.namespace
        )
        return SimulatedReply(tool_calls=(call,), finish_reason="tool_calls")
    if asked.output_schema is not None:
        return _truncate_to_limit(json.dumps(minimal_instance(asked.output_schema)), asked.max_output_tokens)
    return _text_reply(order, asked)


def _tool_to_call(asked: SimulatedRequest) -> OfferedTool | None:
    """The tool that the request wants called: the named one, the next one if it must be one, the first if spoken of."""
    if not asked.tools or asked.tool_choice == "none":
        return None
    if asked.tool_choice.startswith("tool:"):
        name = asked.tool_choice.removeprefix("tool:")
        return next((tool for tool in asked.tools if tool.name == name), OfferedTool(name=name))
    if asked.tool_choice == "required":
        # One after the other, so that a run whose last tool takes the final answer comes to its end.
        return asked.tools[min(asked.step, len(asked.tools) - 1)]
    wanted = not asked.step and asked.output_schema is None and _TOOL_WORD.search(asked.prompt)
    return asked.tools[0] if wanted else None


def _text_reply(order: Directive, asked: SimulatedRequest) -> SimulatedReply:
    """Plain text: what was seen, then words up to the ordered length."""
    limit = asked.max_output_tokens or 10**9
    wanted = int(order.get("output_tokens") or _DEFAULT_WORDS)
    text = " ".join(itertools.islice(itertools.cycle(_WORDS), min(wanted, limit, _MAX_WORDS)))
    seen = [f"I see {asked.image_count} image{'s' * (asked.image_count > 1)}."] if asked.image_count else []
    seen += [f"I see {asked.file_count} file{'s' * (asked.file_count > 1)}."] if asked.file_count else []
    seen += [f"The tool said: {result}" for result in asked.tool_results]
    finish = "length" if wanted > limit else "stop"
    if not seen:
        return SimulatedReply(text=text, finish_reason=finish)
    reply = _truncate_to_limit("\n".join(seen), asked.max_output_tokens)
    return (
        reply if reply.finish_reason == "length" else replace(reply, text=f"{reply.text}\n{text}", finish_reason=finish)
    )


def _truncate_to_limit(text: str, limit: int | None) -> SimulatedReply:
    """The text, cut where the caller's limit of tokens is reached."""
    if limit and len(text) > limit * CHARS_PER_TOKEN:
        return SimulatedReply(text=text[: limit * CHARS_PER_TOKEN], finish_reason="length")
    return SimulatedReply(text=text)
