"""Directives: what the simulated provider answers to a request, in any dialect.

The first of three sources decides: the `sim` field of the body; a directive `[[sim {...}]]` in the newest user text,
which real clients can carry; what the request asks for (a schema, a tool). Both `sim` and directive may hold `reply` (a
chat message, or text), `text`, `thinking`, `tool_calls` ([{"name", "arguments"}], several = parallel), `output_tokens`,
`polls` (how often a background response is read before it has ended, 1 by default), `fault`, and `steps`: a list of such objects, one per turn, counted by the tool results since that text. A fault happens
`at` one model only if the directive names one, and to the first `times` of equal bodies if it gives a number.
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
# Words of an answer without a directive; the longest text that is written, whatever the usage.
_DEFAULT_WORDS, _MAX_WORDS = 40, 50_000
# OpenAI's rule of thumb for English text.
CHARS_PER_TOKEN = 4
_DEFAULT_THINKING = "The caller wants an answer; I look at what was given and say what I saw."
_TOOL_WORD = re.compile(r"\btools?\b", re.IGNORECASE)
# Opens a directive inside a text; JSON and two closing brackets follow.
DIRECTIVE_OPEN = "[[sim "
_DECODER = json.JSONDecoder()
# Keys of a directive without steps that also apply to later turns; with the others an agent would never end.
_PERSISTENT_KEYS = ("output_tokens", "fault")

Directive = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedTool:
    """A tool that the caller offers.

    is_custom: takes free text
    """

    name: str
    schema: Any = None
    is_custom: bool = False
    namespace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRequest:
    """A request in dialect-neutral form.

    text: all user text since the model's last message
    prompt: its last part (clients put reminders before it)
    tool_results: those that no model message follows
    step: turns with tool results since the newest user text
    tool_choice: "auto", "none", "required" or "tool:NAME"
    """

    text: str = ""
    prompt: str = ""
    image_count: int = 0
    file_count: int = 0
    tool_results: tuple[str, ...] = ()
    step: int = 0
    tools: tuple[OfferedTool, ...] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    output_schema: Any = None
    wants_thinking: bool = False
    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedToolCall:
    """One tool call.

    id: "": the dialect creates one
    is_custom: the arguments are free text
    """

    name: str
    arguments: str
    id: str = ""
    is_custom: bool = False
    namespace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedReply:
    """The content of an answer.

    finish_reason: stop, length, tool_calls or content_filter
    message: the chat message of the directive, passed on unchanged
    polls: how often a background response is read before it has ended
    """

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[SimulatedToolCall, ...] = ()
    finish_reason: str = "stop"
    message: dict[str, Any] | None = None
    polls: int = 1


def is_complete(sim: Any) -> bool:
    """Whether a `sim` field decides everything, so that the request need not be read."""
    return isinstance(sim, dict) and isinstance(sim.get("reply"), dict) and "steps" not in sim


def directive_for(sim: Any, request: SimulatedRequest) -> Directive:
    """The directive in the `sim` field, else in the text; {} without one."""
    return _apply_step(sim, request.step) if sim and isinstance(sim, dict) else directive_in(request)


def directive_in(request: SimulatedRequest) -> Directive:
    """The directive in the newest user text; {} if there is none or it no longer applies."""
    start = request.text.rfind(DIRECTIVE_OPEN)
    if start < 0:
        return {}
    try:
        directive, _ = _DECODER.raw_decode(request.text, start + len(DIRECTIVE_OPEN))
    except ValueError:
        return {}
    if not isinstance(directive, dict):
        return {}
    if request.step and not isinstance(directive.get("steps"), list):
        directive = {name: value for name, value in directive.items() if name in _PERSISTENT_KEYS}
    now = _apply_step(directive, request.step)
    # A model cannot call a tool it was not offered; clients quote the prompt in side requests without tools.
    offered = {tool.name for tool in request.tools}
    calls = [call for call in now.get("tool_calls") or () if call.get("name") in offered]
    return {**now, "tool_calls": calls if request.parallel_tool_calls else calls[:1]}


def reply_to(directive: Directive, request: SimulatedRequest) -> SimulatedReply:
    """The reply to one request."""
    directive = _apply_step(directive, request.step)
    reply = _directed_reply(directive, request) or _default_reply(directive, request)
    # The message of a directive is passed on unchanged, but for calls, before which Anthropic requires thinking.
    if not reply.thinking and request.wants_thinking and (reply.message is None or reply.tool_calls):
        reply = replace(reply, thinking=_DEFAULT_THINKING)
    fault = directive.get("fault")
    if isinstance(fault, str) and fault.startswith("long_finish:"):
        reply = replace(reply, finish_reason=fault.removeprefix("long_finish:"))
    return replace(reply, polls=int(directive["polls"])) if "polls" in directive else reply


def _apply_step(directive: Directive, step: int) -> Directive:
    """The directive with the current step in place of its list of steps."""
    steps = directive.get("steps")
    if not isinstance(steps, list):
        return directive
    common = {name: value for name, value in directive.items() if name != "steps"}
    return {**common, **(steps[step] if step < len(steps) else {})}


def _directed_reply(directive: Directive, request: SimulatedRequest) -> SimulatedReply | None:
    reply, text, calls = directive.get("reply"), directive.get("text"), directive.get("tool_calls")
    thinking = str(directive.get("thinking") or "")
    if isinstance(reply, dict):
        return _reply_from_message(reply)
    if isinstance(reply, str):
        text = reply
    if not calls and not isinstance(text, str):
        return None
    tool_calls = tuple(_tool_call(call, request.tools) for call in calls or ())
    finish_reason = "tool_calls" if tool_calls else "stop"
    return SimulatedReply(text=text or "", thinking=thinking, tool_calls=tool_calls, finish_reason=finish_reason)


def _reply_from_message(reply: dict[str, Any]) -> SimulatedReply:
    """A reply given as a chat message, which the chat dialect sends unchanged."""
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
    """A call of a directive: {"name", "arguments"}, or the shape of a chat message's."""
    function = call.get("function") or call
    arguments, name = function.get("arguments"), str(function.get("name"))
    if not isinstance(arguments, str):
        arguments = json.dumps({} if arguments is None else arguments)
    tool = next((tool for tool in tools if tool.name == name), OfferedTool(name=name))
    return SimulatedToolCall(
        name=name, arguments=arguments, id=str(call.get("id") or ""), is_custom=tool.is_custom, namespace=tool.namespace
    )


def _default_reply(directive: Directive, request: SimulatedRequest) -> SimulatedReply:
    tool = _tool_to_call(request)
    if tool is not None:
        arguments = "text" if tool.is_custom else json.dumps(minimal_instance(tool.schema))
        call = SimulatedToolCall(
            name=tool.name, arguments=arguments, is_custom=tool.is_custom, namespace=tool.namespace
        )
        return SimulatedReply(tool_calls=(call,), finish_reason="tool_calls")
    if request.output_schema is not None:
        return _truncate_to_limit(json.dumps(minimal_instance(request.output_schema)), request.max_output_tokens)
    return _text_reply(directive, request)


def _tool_to_call(request: SimulatedRequest) -> OfferedTool | None:
    """The tool that the request wants called; None: none.

    The named one, the next if one is required, the first if the prompt mentions tools.
    """
    if not request.tools or request.tool_choice == "none":
        return None
    if request.tool_choice.startswith("tool:"):
        name = request.tool_choice.removeprefix("tool:")
        return next((tool for tool in request.tools if tool.name == name), OfferedTool(name=name))
    if request.tool_choice == "required":
        # One after the other, so that an agent whose last tool submits the final answer ends.
        return request.tools[min(request.step, len(request.tools) - 1)]
    mentions_tools = not request.step and request.output_schema is None and _TOOL_WORD.search(request.prompt)
    return request.tools[0] if mentions_tools else None


def _text_reply(directive: Directive, request: SimulatedRequest) -> SimulatedReply:
    """Plain text: attachments, tool results, then words up to the requested length."""
    limit = request.max_output_tokens or 10**9
    word_count = int(directive.get("output_tokens") or _DEFAULT_WORDS)
    text = " ".join(itertools.islice(itertools.cycle(_WORDS), min(word_count, limit, _MAX_WORDS)))
    lines = [f"I see {request.image_count} image{'s' * (request.image_count > 1)}."] if request.image_count else []
    lines += [f"I see {request.file_count} file{'s' * (request.file_count > 1)}."] if request.file_count else []
    lines += [f"The tool said: {result}" for result in request.tool_results]
    finish = "length" if word_count > limit else "stop"
    if not lines:
        return SimulatedReply(text=text, finish_reason=finish)
    reply = _truncate_to_limit("\n".join(lines), request.max_output_tokens)
    return (
        reply if reply.finish_reason == "length" else replace(reply, text=f"{reply.text}\n{text}", finish_reason=finish)
    )


def _truncate_to_limit(text: str, limit: int | None) -> SimulatedReply:
    """The text, cut at the caller's token limit."""
    if limit and len(text) > limit * CHARS_PER_TOKEN:
        return SimulatedReply(text=text[: limit * CHARS_PER_TOKEN], finish_reason="length")
    return SimulatedReply(text=text)
