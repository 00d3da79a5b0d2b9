"""Shared by the SDK drivers: environment, weather tool, report as one JSON line."""

import asyncio
import inspect
import json
import logging
import os
import re
import traceback
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

logging.disable(logging.WARNING)

BASE_URL = os.environ["BASE_URL"].rstrip("/")
OPENAI_URL = f"{BASE_URL}/v1"
API_KEY = os.environ["API_KEY"]
MODEL = os.environ["MODEL"]
# Order to the simulated provider, appended to prompts.
DIRECTIVE = os.environ.get("DIRECTIVE", "")
# Order appended to the tool's result, for agents that send results as user messages.
DIRECTIVE_AFTER = os.environ.get("DIRECTIVE_AFTER", "")
# Only the tool returns this number; the final text must contain it.
PROOF = "4711"
SYSTEM = "You are a helpful assistant."
GREETING = f"Say hello. {DIRECTIVE}".strip()
TASK = f"What is the weather in Lisbon? Use the tool. {DIRECTIVE}".strip()
# Most requests of a loop scenario, where a framework sets no limit of its own.
ROUNDS_MAX = 40
# Whether to follow the approval link of a stop and resume.
RESUME = bool(os.environ.get("RESUME"))
_LINK = re.compile(r"To resume it: (https?://[\w:./?=&%~-]+)")
_T = TypeVar("_T")
EXTRACT = f"Extract the city: Lisbon has 545796 inhabitants. {DIRECTIVE}".strip()
LOOK = f"What is in this picture? {DIRECTIVE}".strip()
# A red square, 16 by 16 pixels.
PNG = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAFklEQVR42mO4ICBAEmIY1TCqYfhqAABYoPABnlzdOQAAAABJRU5ErkJggg=="


class City(BaseModel):
    """A city."""

    name: str
    inhabitants: int


def weather(city: str) -> str:
    """Get the weather of a city.

    Args:
        city: the city to look up
    """
    return f"Sunny in {city}, station {PROOF}"


WEATHER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "the city to look up"}},
    "required": ["city"],
    "additionalProperties": False,
}


class Unmet(Exception):
    """The answer does not meet the scenario."""


def city_of(answer: Any) -> str:
    """A structured answer as text. Raises Unmet if it is no City."""
    if not isinstance(answer, City):
        raise Unmet(f"not a City: {answer!r:.300}")
    return answer.model_dump_json()


def resume(error: BaseException) -> None:
    """Resume a stopped session by the link in the error. Raises the error where it has none."""
    link = _LINK.search(_chain(error)) if RESUME else None
    if link is None:
        raise error
    with urllib.request.urlopen(urllib.request.Request(link[1], method="POST"), timeout=30) as answer:
        assert answer.status == 200


def with_resume(ask: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
    """Call `ask`; where the session is stopped, resume it and call again."""
    try:
        return ask(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - each client has its own exceptions
        resume(error)
        return ask(*args, **kwargs)


def drive(scenarios: Mapping[str, Callable[[], Any]]) -> None:
    """Run the scenario in SCENARIO and report; a scenario returns the final text, or is a coroutine function."""
    name = os.environ["SCENARIO"]
    # A refusal is tested with the plainest request; clients that only stream have a scenario of their own.
    # Where a framework repeats tool calls by itself, a loop is a tool scenario whose call never changes.
    substitute = {"refusal": "text", "loop": "tool", "stream_loop": "stream_tool"}.get(name, "")
    scenario = scenarios.get(name) or scenarios.get(substitute)
    # Some clients only stream.
    if name == "loop" and scenario is None:
        scenario = scenarios.get("stream_tool")
    if scenario is None:
        return _report({"ok": None, "detail": "not offered by this client"})
    try:
        text = asyncio.run(scenario()) if inspect.iscoroutinefunction(scenario) else scenario()
    except Exception as error:  # noqa: BLE001 - any exception is reported
        shown = _chain(error)
        if name != "refusal":
            return _report({"ok": False, "text": "", "detail": shown[:3000], "trace": traceback.format_exc()[-3000:]})
        ok = os.environ.get("REFUSAL", "budget").lower() in shown.lower()
        return _report({"ok": ok, "text": "", "detail": "" if ok else "message not shown", "error": shown[:1000]})
    text = str(text)
    if name == "refusal":
        return _report({"ok": False, "text": text, "detail": "no error was raised"})
    expected = PROOF if name in ("tool", "stream_tool") else os.environ.get("EXPECTED", "")
    ok = bool(text) and expected in text
    return _report({"ok": ok, "text": text[:2000], "detail": "" if ok else f"no {expected!r} in the answer"})


def _chain(error: BaseException) -> str:
    """The error with its causes, as a client's user sees them."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(texts) < 6:
        texts.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__ or cause.__context__
    return " <- ".join(texts)


def _report(line: Mapping[str, Any]) -> None:
    # On a line of its own: some frameworks print without a final newline.
    print(f"\n{json.dumps(line)}", flush=True)
    # Some frameworks keep threads or sockets open that would delay the exit.
    os._exit(0)
