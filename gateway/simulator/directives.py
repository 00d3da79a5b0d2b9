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

from .schema_instance import minimal

_TEXT = "the agent reads the file, finds the cause, changes one line and runs the tests again until they pass. "
_WORDS = _TEXT.split(" ")
# Words of an answer for which nothing was ordered; however much usage is claimed, the longest text that is written.
_WORDS_USUAL, _WORDS_MAX = 40, 50_000
# OpenAI's rule of thumb for English text.
CHARS_PER_TOKEN = 4
_THINKING = "The caller wants an answer; I look at what was given and say what I saw."
_TOOL_WORD = re.compile(r"\btools?\b", re.IGNORECASE)
# What opens an order inside a text; JSON and two closing brackets follow.
DIRECTIVE = "[[sim "
_DECODER = json.JSONDecoder()
# What is left of a directive without steps once its turn is over; were the rest repeated, an agent would never end.
_LASTING = ("output_tokens", "fault")

Order = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool that the caller offers; `custom` ones take free text."""

    name: str
    schema: Any = None
    custom: bool = False
    namespace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request asks for, whichever dialect said it.

    `text` is all user text since the model's last word, `prompt` the last part of it (clients put reminders before it);
    `results` are the tool results that nobody has answered yet; `step` counts turns with results since the newest text.
    """

    text: str = ""
    prompt: str = ""
    images: int = 0
    files: int = 0
    results: tuple[str, ...] = ()
    step: int = 0
    tools: tuple[Tool, ...] = ()
    # "auto", "none", "required", or "tool:NAME"
    choice: str = "auto"
    parallel: bool = True
    schema: Any = None
    thinks: bool = False
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One tool call; with `id` "" the dialect mints one, `custom` means that the arguments are free text."""

    name: str
    arguments: str
    id: str = ""
    custom: bool = False
    namespace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What is answered. `finish`: stop, length, tool_calls, content_filter. `message`: the chat message as ordered."""

    text: str = ""
    thinking: str = ""
    calls: tuple[Call, ...] = ()
    finish: str = "stop"
    message: dict[str, Any] | None = None


def ordered(sim: Any) -> bool:
    """Whether a `sim` field leaves nothing open, so that the request need not be read."""
    return isinstance(sim, dict) and isinstance(sim.get("reply"), dict) and "steps" not in sim


def order_for(sim: Any, asked: Asked) -> Order:
    """The order that a request carries, in its `sim` field or else in its text; nothing if it has none."""
    return _now(sim, asked.step) if sim and isinstance(sim, dict) else order_in(asked)


def order_in(asked: Asked) -> Order:
    """The directive inside the newest user text; nothing if there is none, or its turn is over."""
    start = asked.text.rfind(DIRECTIVE)
    if start < 0:
        return {}
    try:
        order, _ = _DECODER.raw_decode(asked.text, start + len(DIRECTIVE))
    except ValueError:
        return {}
    if not isinstance(order, dict):
        return {}
    if asked.step and not isinstance(order.get("steps"), list):
        order = {name: value for name, value in order.items() if name in _LASTING}
    now = _now(order, asked.step)
    # A model cannot call what it was not offered; clients quote the prompt in side requests without tools.
    offered = {tool.name for tool in asked.tools}
    calls = [call for call in now.get("tool_calls") or () if call.get("name") in offered]
    return {**now, "tool_calls": calls if asked.parallel else calls[:1]}


def answer(order: Order, asked: Asked) -> Reply:
    """The reply to one request."""
    order = _now(order, asked.step)
    reply = _ordered(order, asked) or _scripted(order, asked)
    # A message that was ordered is given as it is, but for calls, before which Anthropic demands thinking.
    if not reply.thinking and asked.thinks and (reply.message is None or reply.calls):
        reply = replace(reply, thinking=_THINKING)
    fault = order.get("fault")
    if isinstance(fault, str) and fault.startswith("long_finish:"):
        reply = replace(reply, finish=fault.removeprefix("long_finish:"))
    return reply


def _now(order: Order, step: int) -> Order:
    """The order with the step that has come in place of its list of steps."""
    steps = order.get("steps")
    if not isinstance(steps, list):
        return order
    common = {name: value for name, value in order.items() if name != "steps"}
    return {**common, **(steps[step] if step < len(steps) else {})}


def _ordered(order: Order, asked: Asked) -> Reply | None:
    reply, text, calls = order.get("reply"), order.get("text"), order.get("tool_calls")
    thinking = str(order.get("thinking") or "")
    if isinstance(reply, dict):
        return _message(reply)
    if isinstance(reply, str):
        text = reply
    if not calls and not isinstance(text, str):
        return None
    made = tuple(_call(call, asked.tools) for call in calls or ())
    return Reply(text=text or "", thinking=thinking, calls=made, finish="tool_calls" if made else "stop")


def _message(reply: dict[str, Any]) -> Reply:
    """A reply ordered as a chat message, which chat words exactly as it is."""
    content = reply.get("content")
    calls = reply.get("tool_calls") or ()
    return Reply(
        text=content if isinstance(content, str) else "".join(part.get("text") or "" for part in content or ()),
        thinking=str(reply.get("thinking") or reply.get("reasoning_content") or ""),
        calls=tuple(_call(call, ()) for call in calls),
        finish="tool_calls" if calls else "stop",
        message={"role": "assistant", "content": None, **reply},
    )


def _call(call: Mapping[str, Any], tools: tuple[Tool, ...]) -> Call:
    """A call as ordered: {"name", "arguments"}, or the shape of a chat message's."""
    function = call.get("function") or call
    arguments, name = function.get("arguments"), str(function.get("name"))
    if not isinstance(arguments, str):
        arguments = json.dumps({} if arguments is None else arguments)
    tool = next((tool for tool in tools if tool.name == name), Tool(name=name))
    return Call(
        name=name, arguments=arguments, id=str(call.get("id") or ""), custom=tool.custom, namespace=tool.namespace
    )


def _scripted(order: Order, asked: Asked) -> Reply:
    called = _called(asked)
    if called is not None:
        arguments = "text" if called.custom else json.dumps(minimal(called.schema))
        call = Call(name=called.name, arguments=arguments, custom=called.custom, namespace=called.namespace)
        return Reply(calls=(call,), finish="tool_calls")
    if asked.schema is not None:
        return _within(json.dumps(minimal(asked.schema)), asked.limit)
    return _words(order, asked)


def _called(asked: Asked) -> Tool | None:
    """The tool that the request wants called: the named one, the next one if it must be one, the first if spoken of."""
    if not asked.tools or asked.choice == "none":
        return None
    if asked.choice.startswith("tool:"):
        name = asked.choice.removeprefix("tool:")
        return next((tool for tool in asked.tools if tool.name == name), Tool(name=name))
    if asked.choice == "required":
        # One after the other, so that a run whose last tool takes the final answer comes to its end.
        return asked.tools[min(asked.step, len(asked.tools) - 1)]
    wanted = not asked.step and asked.schema is None and _TOOL_WORD.search(asked.prompt)
    return asked.tools[0] if wanted else None


def _words(order: Order, asked: Asked) -> Reply:
    """Plain text: what was seen, then words up to the ordered length."""
    limit = asked.limit or 10**9
    wanted = int(order.get("output_tokens") or _WORDS_USUAL)
    text = " ".join(itertools.islice(itertools.cycle(_WORDS), min(wanted, limit, _WORDS_MAX)))
    seen = [f"I see {asked.images} image{'s' * (asked.images > 1)}."] if asked.images else []
    seen += [f"I see {asked.files} file{'s' * (asked.files > 1)}."] if asked.files else []
    seen += [f"The tool said: {result}" for result in asked.results]
    finish = "length" if wanted > limit else "stop"
    if not seen:
        return Reply(text=text, finish=finish)
    reply = _within("\n".join(seen), asked.limit)
    return reply if reply.finish == "length" else replace(reply, text=f"{reply.text}\n{text}", finish=finish)


def _within(text: str, limit: int | None) -> Reply:
    """The text, cut where the caller's limit of tokens is reached."""
    if limit and len(text) > limit * CHARS_PER_TOKEN:
        return Reply(text=text[: limit * CHARS_PER_TOKEN], finish="length")
    return Reply(text=text)
