"""Lets every client run in circles, and prints what the gateway did: `python -m tests.clients.loops --help`.

The provider answers with the same tool call for ever. The gateway, on its default settings, warns, nudges and stops; once it
has stopped a run, the provider would answer with a text, so that a client that gets past the stop comes to an end.
"""

import argparse
import asyncio
import json
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .clients import CLIENTS, Client
from .environment import ClientEnvironment
from .run import OUT, Job, drive, environment, last_line, meant
from .tap import Seen, Tap

PROFILES = ("same", "crossed", "chat-only", "auto")
# Those whose drivers follow the link of a stop.
RESUMING = (
    "openai_chat", "openai_responses", "anthropic_messages", "anthropic_messages_v1", "openai_chat_js",
    "openai_responses_js", "anthropic_js", "litellm_chat", "langgraph_openai", "langgraph_responses",
    "langgraph_anthropic", "pydantic_ai_chat", "pydantic_ai_responses", "pydantic_ai_anthropic",
)  # fmt: skip
MODES = ("loop", "stream_loop", "stored_loop", "resume")
_NONCE = re.compile(rb"\(run ([0-9a-f]{12})\)")
_RESPONSE = re.compile(rb'"id":\s*"(resp_[\w-]+)"')
_STEP = re.compile(r"\w+")
NOTE = b"[Gateway note:"
FINAL = "Finished: it says tool-output-42 and 4711."
# What would not be stopped by then never is; above the limits that clients have by themselves.
_ROUNDS_MAX = 60
_EVENTS = ("warn", "nudge", "stop")


@dataclass(slots=True, kw_only=True)
class Run:
    """One run: what its client was `told`, and what the provider got of it, by what it answered: the call, the end, anything else."""

    client: Client
    told: Sequence[Seen]
    circled: list[Seen] = field(default_factory=list)
    finished: list[Seen] = field(default_factory=list)
    aside: list[Seen] = field(default_factory=list)

    @property
    def finishing(self) -> bool:
        """Whether its client has been told of a stop, or never will be."""
        return len(self.circled) >= _ROUNDS_MAX or any("x-penstock-stopped" in one.told for one in self.told)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One row. `given`: requests that the client sent with tools or without; `steps`: the number of the request with which
    each step came; `after`: requests that came after the first refusal; `sessions`: how many the gateway took the run for."""

    job: Job
    resumed: bool
    looped: int
    steps: Mapping[str, int]
    noted: int
    where: str
    status: int
    code: str
    after: int
    leaked: int
    sessions: int
    by: str
    ended: str
    shown: str
    finished: bool
    events: Mapping[str, int]
    seconds: float
    said: str

    @property
    def verdict(self) -> str:
        """What came of it: `stopped`, `by itself`, `resumed`, or what is wrong."""
        wrong = list(self._wrong())
        return ("**" + "; ".join(wrong) + "**") if wrong else self._right()

    def _right(self) -> str:
        if self.resumed:
            return "resumed, finished"
        return "stopped" if self.status else "ended by itself"

    def _wrong(self) -> Iterator[str]:
        if self.looped >= _ROUNDS_MAX:
            yield "never stopped"
        if not self.looped:
            yield "did not loop"
        if self.sessions != 1:
            yield f"{self.sessions} sessions"
        if self.status and not (self.steps.get("warn") and self.steps.get("nudge")):
            yield "stopped unwarned"
        if "nudge" in self.steps and not self.noted:
            yield "nudge not in the body"
        if self.leaked:
            yield f"{self.leaked} served after the stop"
        if self.ended == "killed":
            yield "had to be killed"
        if self.resumed and not self.finished:
            yield "did not finish"
        if not self.resumed and self.status and self.shown == "no":
            yield "message not shown"


class Circle:
    """Stands between gateway and providers: whose request it is, and what it shall be answered with."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self._seen: list[tuple[Seen, str]] = []

    def change(self, seen: Seen) -> bytes:
        """The body, with an order for the simulated provider."""
        nonce = self._whose(seen)
        run = self.runs.get(nonce)
        if run is None:
            return seen.asked
        self._seen.append((seen, nonce))
        body = json.loads(seen.asked)
        # Some name tools amid the history.
        items = body.get("input") if isinstance(body.get("input"), list) else []
        offered = {
            name for place in (body, *items) if isinstance(place, dict) for name in _names(place.get("tools") or [])
        }
        call = next((call for call in _calls(run.client) if _offered(call["name"], offered)), None)
        if call is None or not seen.asks_a_model:
            run.aside.append(seen)
            return seen.asked
        if run.finishing:
            run.finished.append(seen)
            order: dict[str, Any] = {"text": FINAL}
            if "final_answer" in offered:
                order = {"tool_calls": [{"name": "final_answer", "arguments": {"answer": FINAL}}]}
        else:
            run.circled.append(seen)
            order = {"tool_calls": [{**call, "name": _offered(call["name"], offered)}]}
        return json.dumps({**body, "sim": order}).encode()

    def _whose(self, seen: Seen) -> str:
        found = _NONCE.search(seen.asked)
        if found:
            return found[1].decode()
        # A request that continues a stored answer says nothing else.
        if b'"previous_response_id"' not in seen.asked:
            return ""
        earlier = json.loads(seen.asked).get("previous_response_id")
        for answer, nonce in reversed(self._seen):
            id = _RESPONSE.search(bytes(answer.answered))
            if id and id[1].decode() == earlier:
                return nonce
        return ""


def _calls(client: Client) -> list[dict[str, Any]]:
    return list(client.order("tool", "same")["tool_calls"])  # type: ignore[call-overload]


def _offered(name: str, offered: set[str]) -> str:
    """The name under which the tool is offered; frameworks may lengthen it."""
    return name if name in offered else next((one for one in offered if one.startswith(f"{name}_")), "")


def _names(tools: Any) -> Iterator[str]:
    for tool in tools:
        if isinstance(tool, dict):
            yield str(tool.get("name") or tool.get("function", {}).get("name"))
            yield from _names(tool.get("tools") or [])


def main() -> int:
    """Gives 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", action="append", choices=PROFILES, help="default: same")
    parser.add_argument("--client", action="append", help="its name, or a part of several; default: all with tools")
    parser.add_argument("--mode", action="append", choices=MODES, help="default: loop, and resume where a driver can")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once (default 2)")
    chosen = parser.parse_args()
    jobs = [
        (Job(client=client, scenario="loop" if mode == "resume" else mode, profile=profile), mode == "resume")
        for profile in chosen.profile or PROFILES[:1]
        for client in CLIENTS
        if meant(client.name, chosen.client or [""]) and {"tool", "stream_tool"} & set(client.scenarios)
        for mode in chosen.mode or ("loop", "resume")
        if mode == "loop"
        or (mode == "resume" and client.name in RESUMING)
        or (mode == "stream_loop" and "stream_tool" in client.scenarios)
        or (mode == "stored_loop" and client.name == "openai_responses")
    ]
    found = asyncio.run(_run(jobs, chosen.jobs))
    print(table(found))
    return 1 if any(one.verdict.startswith("**") for one in found) else 0


async def _run(jobs: Sequence[tuple[Job, bool]], at_once: int) -> list[Found]:
    folder = OUT.with_name("out-loops")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    circle = Circle()
    upstream, tap = Tap(circle.change), Tap()
    await upstream.start()
    await tap.start()

    def between(name: str, url: str) -> str:
        return upstream.open(name, url.removesuffix("/v1")) + "/v1"

    stage = ClientEnvironment(folder, between)
    try:
        targets = {
            profile: await stage.start_gateway(profile) for profile in dict.fromkeys(job.profile for job, _ in jobs)
        }
        turn = asyncio.Semaphore(at_once)

        async def one(job: Job, resumes: bool) -> Found:
            async with turn:
                found = await _job(job, resumes, tap, circle, stage, targets[job.profile][job.client.model], folder)
                print(_line(found), file=sys.stderr, flush=True)
                return found

        return await asyncio.gather(*(one(job, resumes) for job, resumes in jobs))
    finally:
        await tap.stop()
        await stage.stop()
        await upstream.stop()


async def _job(
    job: Job, resumes: bool, tap: Tap, circle: Circle, stage: ClientEnvironment, target: str, folder: Path
) -> Found:
    name = f"{job.name}.resume" if resumes else job.name
    base_url = tap.open(name, target)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="home-", ignore_cleanup_errors=True) as home:
        env = {**environment(job, base_url, home), "VERBOSE": "1", **({"RESUME": "1"} if resumes else {})}
        nonce = _NONCE.search(env["DIRECTIVE"].encode())
        assert nonce is not None
        run = circle.runs[nonce[1].decode()] = Run(client=job.client, told=tap.seen[name])
        out, err = await drive(job, env)
    found = _found(job, resumes, run, tap.seen[name], out, err, await stage.loop_events(), time.monotonic() - started)
    left = {
        "out": out[-20_000:],
        "err": err[-20_000:],
        "seen": [{**one.document(), "told": dict(one.told)} for one in tap.seen[name]],
        "provider got": [one.document() for one in (*run.circled, *run.finished, *run.aside)],
    }
    (folder / f"{name}.json").write_text(json.dumps(left, indent=1))
    return found


def _found(
    job: Job,
    resumed: bool,
    run: Run,
    seen: Sequence[Seen],
    out: str,
    err: str,
    events: Sequence[Mapping[str, Any]],
    seconds: float,
) -> Found:
    asked = [one for one in seen if one.asks_a_model]
    told = [{key.lower(): value for key, value in one.told.items()} for one in asked]
    stops = [number for number, headers in enumerate(told) if headers.get("x-penstock-stopped")]
    first = stops[0] if stops else len(asked)
    steps: dict[str, int] = {}
    for number, headers in enumerate(told):
        step = _STEP.match(headers.get("x-penstock-loop", ""))
        if step:
            steps.setdefault(step[0], number + 1)
    # Side requests (titles) are not part of the run.
    sessions = {headers["x-penstock-session"] for headers in told if "x-penstock-session" in headers}
    about = [event for event in events if event.get("session") in sessions]
    circling = {str(event["session"]) for event in about} or sessions
    refusals = [one for one, headers in zip(asked, told, strict=True) if headers.get("x-penstock-stopped")]
    noted = [one for one in (*run.circled, *run.finished) if NOTE in one.asked]
    said = last_line(out)
    everything = f"{out}\n{err}"
    return Found(
        job=job,
        resumed=resumed,
        looped=len(run.circled),
        steps=steps,
        noted=len(noted),
        where=_place(noted[0]) if noted else "",
        status=asked[first].status if stops else 0,
        code=told[first]["x-penstock-stopped"] if stops else "",
        after=len(asked) - first - 1 if stops else 0,
        leaked=len(run.finished) if stops and not resumed else 0,
        sessions=len(circling),
        by=_known_by(asked[0]) if asked else "",
        ended=_ended(said, out, err),
        shown=_shown(everything),
        finished=FINAL in str(said.get("text")),
        events=Counter(str(event["kind"]) for event in about),
        seconds=seconds,
        said=_said(said, refusals),
    )


def _place(seen: Seen) -> str:
    """What the note was appended to, in the provider's dialect."""
    body = json.loads(seen.asked)
    items = body.get("messages") or body.get("input") or []
    for item in items if isinstance(items, list) else []:
        if NOTE.decode() in json.dumps(item):
            kind = item.get("type") or item.get("role") or ""
            parts = item.get("content") if isinstance(item.get("content"), list) else []
            inner = [str(part.get("type")) for part in parts if NOTE.decode() in json.dumps(part)]
            return " ".join([str(kind), *inner])
    return "elsewhere"


def _known_by(seen: Seen) -> str:
    names = {name.lower() for name in seen.headers}
    known = [name for name in sorted(names) if "session" in name or "thread" in name or name == "traceparent"]
    return ", ".join(known[:2]) or "–"


def _ended(said: Mapping[str, object], out: str, err: str) -> str:
    if "ended after" in err[-200:] or "ended after" in str(said.get("status", "")):
        return "killed"
    if said.get("detail") == "the driver said nothing":
        return "no report"
    if "status" in said:
        return f"exit {said['status']}"
    return "error" if said.get("ok") is False and not said.get("text") else "answer"


def _shown(text: str) -> str:
    """How much of the refusal the user gets to see."""
    seen = [
        word for word, mark in (("code", "loop_stopped"), ("message", "repeats itself"), ("link", "To resume it:"))
        if mark in text
    ]  # fmt: skip
    return ", ".join(seen) or "no"


def _said(said: Mapping[str, object], refusals: Sequence[Seen]) -> str:
    text = " ".join(str(said.get("detail") or said.get("text") or said.get("out") or "").split())
    return text[:300]


def table(found: Sequence[Found]) -> str:
    """Markdown, one row a run."""
    head = (
        "client", "mode", "profile", "known by", "looping requests at the provider", "warn at", "nudge at",
        "note in", "stop at", "status", "after it", "ended", "user sees", "events (warn/nudge/stop)", "s", "verdict",
    )  # fmt: skip
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for one in found:
        cells = (
            one.job.client.name, "resume" if one.resumed else one.job.scenario, one.job.profile, one.by, one.looped,
            one.steps.get("warn", "–"), one.steps.get("nudge", "–"), one.where or "–", one.steps.get("stop", "–"),
            one.status or "–", one.after if one.status else "–", one.ended, one.shown if one.status else "–",
            "/".join(str(one.events.get(f"loop_{kind}", 0)) for kind in _EVENTS), f"{one.seconds:.0f}", one.verdict,
        )  # fmt: skip
        rows.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(rows)


def _line(found: Found) -> str:
    mode = "resume" if found.resumed else found.job.scenario
    return (
        f"{found.verdict:20} {found.job.profile}.{found.job.client.name}.{mode} looped={found.looped} "
        f"steps={dict(found.steps)} status={found.status} after={found.after} ended={found.ended} shown={found.shown} "
        f"({found.seconds:.1f} s) {found.said[:160]}"
    )


if __name__ == "__main__":
    sys.exit(main())
