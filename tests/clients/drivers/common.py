"""What the SDKs' drivers share: the environment, the weather tool, one JSON line at the end."""

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
# What the runner appends for the simulated provider.
DIRECTIVE = os.environ.get("DIRECTIVE", "")
# What the tool's result appends, for agents that feed results back as the user's words.
DIRECTIVE_AFTER = os.environ.get("DIRECTIVE_AFTER", "")
# Only the tool knows this number; it must come back in the final text.
PROOF = "4711"
SYSTEM = "You are a helpful assistant."
GREETING = f"Say hello. {DIRECTIVE}".strip()
TASK = f"What is the weather in Lisbon? Use the tool. {DIRECTIVE}".strip()
# What is asked for in the loop scenarios at most, where a framework sets no limit of its own.
ROUNDS_MAX = 40
# Whether to follow the link of a stop, as a person would, and go on.
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
    """Tell the weather of a city.

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
    """The answer is not what the scenario asks for."""


def city_of(found: Any) -> str:
    """The text of a structured answer; raises Unmet if it is no City."""
    if not isinstance(found, City):
        raise Unmet(f"no City but {found!r:.300}")
    return found.model_dump_json()


def follow(error: BaseException) -> None:
    """Let a stopped session go on by the link in what the client shows; raises the error where there is none to follow."""
    link = _LINK.search(_chain(error)) if RESUME else None
    if link is None:
        raise error
    with urllib.request.urlopen(link[1], timeout=30) as answer:
        assert answer.status == 200


def insisting(ask: Callable[..., _T], *given: Any, **named: Any) -> _T:
    """What is answered; where the session was stopped, to the second try, after the link was followed."""
    try:
        return ask(*given, **named)
    except Exception as error:  # noqa: BLE001 - every client has its own
        follow(error)
        return ask(*given, **named)


def drive(scenarios: Mapping[str, Callable[[], Any]]) -> None:
    """Run the scenario that the environment names; a scenario gives the final text, or a coroutine of it."""
    name = os.environ["SCENARIO"]
    # A refusal is met by the plainest request there is; clients that only stream name their own.
    # Where a framework goes round by itself, a loop is nothing but a tool that is called for ever.
    instead = {"refusal": "text", "loop": "tool", "stream_loop": "stream_tool"}.get(name, "")
    scenario = scenarios.get(name) or scenarios.get(instead)
    # Some only stream.
    if name == "loop" and scenario is None:
        scenario = scenarios.get("stream_tool")
    if scenario is None:
        return _say({"ok": None, "detail": "not offered by this client"})
    try:
        text = asyncio.run(scenario()) if inspect.iscoroutinefunction(scenario) else scenario()
    except Exception as error:  # noqa: BLE001 - whatever a framework raises is the finding
        shown = _chain(error)
        if name != "refusal":
            return _say({"ok": False, "text": "", "detail": shown[:3000], "trace": traceback.format_exc()[-3000:]})
        met = os.environ.get("REFUSAL", "budget").lower() in shown.lower()
        return _say({"ok": met, "text": "", "detail": "" if met else "message not shown", "error": shown[:1000]})
    text = str(text)
    if name == "refusal":
        return _say({"ok": False, "text": text, "detail": "no error was raised"})
    wanted = PROOF if name in ("tool", "stream_tool") else os.environ.get("WANTED", "")
    ok = bool(text) and wanted in text
    return _say({"ok": ok, "text": text[:2000], "detail": "" if ok else f"no {wanted!r} in the answer"})


def _chain(error: BaseException) -> str:
    shown, at = [], error
    while at is not None and len(shown) < 6:
        shown.append(f"{type(at).__name__}: {at}")
        at = at.__cause__ or at.__context__
    return " <- ".join(shown)


def _say(line: Mapping[str, Any]) -> None:
    # On a line of its own: some frameworks leave the cursor in the middle of one.
    print(f"\n{json.dumps(line)}", flush=True)
    # Some frameworks keep threads or sockets that would hold the process.
    os._exit(0)
