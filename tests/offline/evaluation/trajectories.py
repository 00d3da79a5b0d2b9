"""Small handmade sessions, as lines of a recording."""

import json
from typing import Any

from gateway.offline.evaluation.recordings import Recording

OPENING = [{"role": "system", "content": "You are an agent."}, {"role": "user", "content": "Fix the build."}]


def step(number: int, name: str = "run", result: str = "error: no module", **arguments: Any) -> list[dict[str, Any]]:
    """One call and its result."""
    call = {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"c{number}", "content": result},
    ]


def circle(calls: int, new: int = 0) -> list[dict[str, Any]]:
    """This many calls, the first `new` of them different, the others all the same."""
    messages = list(OPENING)
    for number in range(calls):
        messages += step(number, path=number, result=f"text {number}") if number < new else step(number)
    return [*messages, {"role": "assistant", "content": "I give up."}]


def line(messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """One line of a file."""
    return {"id": "s/1", "source": "lab", "label": "healthy", "messages": messages, **more}


def recording(messages: list[dict[str, Any]], **more: Any) -> Recording:
    """The same, as a Recording."""
    return Recording(**{"id": "s/1", "source": "lab", "label": "healthy", "messages": tuple(messages), **more})
