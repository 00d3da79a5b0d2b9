"""Runs clients in loops and prints what the loop guard did: `python -m tests.clients.loops --help`.

The provider answers every request with the same tool call. The gateway, with its default settings, warns, nudges and
stops. After a stop the provider would answer with text, so that a client that passes the stop ends.
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
from .run import NO_REPORT, OUT, Job, drive, environment, is_selected, last_line
from .tap import RecordedRequest, Tap

PROFILES = ("same", "translated", "chat-only", "auto")
# Clients whose drivers follow the approval link of a stop.
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
# A run of more requests counts as never stopped; above the clients' own limits.
_ROUNDS_MAX = 60
_EVENTS = ("warn", "nudge", "stop")


@dataclass(slots=True, kw_only=True)
class Run:
    """One run: the client's requests, and those that reached the provider, by the provider's answer.

    client_requests: requests between client and gateway
    looped: answered with the tool call
    finished: answered with the final text
    other: not part of the loop, such as titles
    """

    client: Client
    client_requests: Sequence[RecordedRequest]
    looped: list[RecordedRequest] = field(default_factory=list)
    finished: list[RecordedRequest] = field(default_factory=list)
    other: list[RecordedRequest] = field(default_factory=list)

    @property
    def finishes(self) -> bool:
        """Whether the provider now answers with the final text: after a stop, or after too many requests."""
        stopped = any("x-penstock-stopped" in request.response_headers for request in self.client_requests)
        return stopped or len(self.looped) >= _ROUNDS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopResult:
    """The result of one run, a row of the table.

    resumed: whether the driver was to follow the approval link
    looped: requests answered with the tool call
    steps: number of the first response with each step of the ladder
    noted: requests with a gateway note at the provider
    note_position: part of the request to which the note was appended
    status, code: of the first refusal; 0 and "" without one
    after: requests after the first refusal
    leaked: requests that reached the provider after the stop
    sessions: sessions that the gateway linked the run to
    session_headers: headers of the client that identify its session
    ended: how the client ended
    shown: parts of the refusal in the client's output
    finished: whether the client reported the final text
    report_text: the driver's report
    """

    job: Job
    resumed: bool
    looped: int
    steps: Mapping[str, int]
    noted: int
    note_position: str
    status: int
    code: str
    after: int
    leaked: int
    sessions: int
    session_headers: str
    ended: str
    shown: str
    finished: bool
    events: Mapping[str, int]
    seconds: float
    report_text: str

    @property
    def verdict(self) -> str:
        """`stopped`, `ended by itself`, `resumed, finished`, or what is wrong."""
        failures = list(self._failures())
        if failures:
            return f"**{'; '.join(failures)}**"
        if self.resumed:
            return "resumed, finished"
        return "stopped" if self.status else "ended by itself"

    def _failures(self) -> Iterator[str]:
        if self.looped >= _ROUNDS_MAX:
            yield "never stopped"
        if not self.looped:
            yield "did not loop"
        if self.sessions != 1:
            yield f"{self.sessions} sessions"
        if self.status and not (self.steps.get("warn") and self.steps.get("nudge")):
            yield "stopped without warning"
        if "nudge" in self.steps and not self.noted:
            yield "nudge not in the body"
        if self.leaked:
            yield f"{self.leaked} served after the stop"
        if self.ended == "killed":
            yield "killed at the time limit"
        if self.resumed and not self.finished:
            yield "did not finish"
        if not self.resumed and self.status and self.shown == "no":
            yield "message not shown"


class LoopingOrders:
    """Adds orders for the simulated provider to requests between gateway and providers."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self._requests: list[tuple[RecordedRequest, str]] = []

    def change(self, request: RecordedRequest) -> bytes:
        """The body with an order for the simulated provider."""
        nonce = self._nonce_of(request)
        run = self.runs.get(nonce)
        if run is None:
            return request.body
        self._requests.append((request, nonce))
        body = json.loads(request.body)
        # Some clients name tools within the history.
        items = body.get("input") if isinstance(body.get("input"), list) else []
        tools = {
            name for item in (body, *items) if isinstance(item, dict) for name in _tool_names(item.get("tools") or [])
        }
        call = next((call for call in _calls(run.client) if _full_name(call["name"], tools)), None)
        if call is None or not request.calls_model:
            run.other.append(request)
            return request.body
        if run.finishes:
            run.finished.append(request)
            order: dict[str, Any] = {"text": FINAL}
            if "final_answer" in tools:
                order = {"tool_calls": [{"name": "final_answer", "arguments": {"answer": FINAL}}]}
        else:
            run.looped.append(request)
            order = {"tool_calls": [{**call, "name": _full_name(call["name"], tools)}]}
        return json.dumps({**body, "sim": order}).encode()

    def _nonce_of(self, request: RecordedRequest) -> str:
        match = _NONCE.search(request.body)
        if match:
            return match[1].decode()
        # The continuation of a stored answer has no other content.
        if b'"previous_response_id"' not in request.body:
            return ""
        earlier = json.loads(request.body).get("previous_response_id")
        for answered, nonce in reversed(self._requests):
            id = _RESPONSE.search(bytes(answered.response_body))
            if id and id[1].decode() == earlier:
                return nonce
        return ""


def _calls(client: Client) -> list[dict[str, Any]]:
    return list(client.order("tool", "same")["tool_calls"])  # type: ignore[call-overload]


def _full_name(name: str, tools: set[str]) -> str:
    """The tool's name in the request, which a framework may have extended; "" where it is not offered."""
    return name if name in tools else next((tool for tool in tools if tool.startswith(f"{name}_")), "")


def _tool_names(tools: Any) -> Iterator[str]:
    for tool in tools:
        if isinstance(tool, dict):
            yield str(tool.get("name") or tool.get("function", {}).get("name"))
            yield from _tool_names(tool.get("tools") or [])


def main() -> int:
    """Run the selected loops and print the table; 1 if a verdict is a failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", action="append", choices=PROFILES, help="default: same")
    parser.add_argument(
        "--client", action="append", help="full name of a client, or part of several names; default: all with tools"
    )
    parser.add_argument(
        "--mode", action="append", choices=MODES, help="default: loop, and resume where the driver supports it"
    )
    parser.add_argument("--jobs", type=int, default=2, help="concurrent jobs (default: 2)")
    args = parser.parse_args()
    jobs = [
        (Job(client=client, scenario="loop" if mode == "resume" else mode, profile=profile), mode == "resume")
        for profile in args.profile or PROFILES[:1]
        for client in CLIENTS
        if is_selected(client.name, args.client or [""]) and {"tool", "stream_tool"} & set(client.scenarios)
        for mode in args.mode or ("loop", "resume")
        if mode == "loop"
        or (mode == "resume" and client.name in RESUMING)
        or (mode == "stream_loop" and "stream_tool" in client.scenarios)
        or (mode == "stored_loop" and client.name == "openai_responses")
    ]
    results = asyncio.run(_run(jobs, args.jobs))
    print(table(results))
    return 1 if any(result.verdict.startswith("**") for result in results) else 0


async def _run(jobs: Sequence[tuple[Job, bool]], concurrency: int) -> list[LoopResult]:
    folder = OUT.with_name("out-loops")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    orders = LoopingOrders()
    upstream, tap = Tap(orders.change), Tap()
    await upstream.start()
    await tap.start()

    def proxied(name: str, url: str) -> str:
        return upstream.open(name, url.removesuffix("/v1")) + "/v1"

    servers = ClientEnvironment(folder, proxied)
    try:
        targets = {
            profile: await servers.start_gateway(profile) for profile in dict.fromkeys(job.profile for job, _ in jobs)
        }
        slots = asyncio.Semaphore(concurrency)

        async def run_job(job: Job, resumes: bool) -> LoopResult:
            async with slots:
                result = await _job(job, resumes, tap, orders, servers, targets[job.profile][job.client.model], folder)
                print(_line(result), file=sys.stderr, flush=True)
                return result

        return await asyncio.gather(*(run_job(job, resumes) for job, resumes in jobs))
    finally:
        await tap.stop()
        await servers.stop()
        await upstream.stop()


async def _job(
    job: Job, resumes: bool, tap: Tap, orders: LoopingOrders, servers: ClientEnvironment, target: str, folder: Path
) -> LoopResult:
    name = f"{job.name}.resume" if resumes else job.name
    base_url = tap.open(name, target)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="home-", ignore_cleanup_errors=True) as home:
        env = {**environment(job, base_url, home), "VERBOSE": "1", **({"RESUME": "1"} if resumes else {})}
        nonce = _NONCE.search(env["DIRECTIVE"].encode())
        assert nonce is not None
        run = orders.runs[nonce[1].decode()] = Run(client=job.client, client_requests=tap.requests[name])
        out, err = await drive(job, env)
    seconds = time.monotonic() - started
    result = _result(job, resumes, run, out, err, await servers.loop_events(), seconds)
    record = {
        "out": out[-20_000:],
        "err": err[-20_000:],
        "client requests": [
            {**request.document(), "response_headers": dict(request.response_headers)} for request in tap.requests[name]
        ],
        "provider requests": [request.document() for request in (*run.looped, *run.finished, *run.other)],
    }
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1))
    return result


def _result(
    job: Job, resumed: bool, run: Run, out: str, err: str, events: Sequence[Mapping[str, Any]], seconds: float
) -> LoopResult:
    requests = [request for request in run.client_requests if request.calls_model]
    responses = [{key.lower(): value for key, value in request.response_headers.items()} for request in requests]
    stops = [number for number, headers in enumerate(responses) if headers.get("x-penstock-stopped")]
    first = stops[0] if stops else len(requests)
    steps: dict[str, int] = {}
    for number, headers in enumerate(responses):
        step = _STEP.match(headers.get("x-penstock-loop", ""))
        if step:
            steps.setdefault(step[0], number + 1)
    # Sessions of side requests (titles) have no loop events.
    sessions = {headers["x-penstock-session"] for headers in responses if "x-penstock-session" in headers}
    own_events = [event for event in events if event.get("session") in sessions]
    looping_sessions = {str(event["session"]) for event in own_events} or sessions
    noted = [request for request in (*run.looped, *run.finished) if NOTE in request.body]
    report = last_line(out)
    return LoopResult(
        job=job,
        resumed=resumed,
        looped=len(run.looped),
        steps=steps,
        noted=len(noted),
        note_position=_note_position(noted[0]) if noted else "",
        status=requests[first].status if stops else 0,
        code=responses[first]["x-penstock-stopped"] if stops else "",
        after=len(requests) - first - 1 if stops else 0,
        leaked=len(run.finished) if stops and not resumed else 0,
        sessions=len(looping_sessions),
        session_headers=_session_headers(requests[0]) if requests else "",
        ended=_ended(report, err),
        shown=_shown(f"{out}\n{err}"),
        finished=FINAL in str(report.get("text")),
        events=Counter(str(event["kind"]) for event in own_events),
        seconds=seconds,
        report_text=" ".join(str(report.get("detail") or report.get("text") or report.get("out") or "").split())[:300],
    )


def _note_position(request: RecordedRequest) -> str:
    """The part of the body to which the note was appended, in the provider's dialect."""
    body = json.loads(request.body)
    items = body.get("messages") or body.get("input") or []
    for item in items if isinstance(items, list) else []:
        if NOTE.decode() in json.dumps(item):
            kind = item.get("type") or item.get("role") or ""
            parts = item.get("content") if isinstance(item.get("content"), list) else []
            types = [str(part.get("type")) for part in parts if NOTE.decode() in json.dumps(part)]
            return " ".join([str(kind), *types])
    return "elsewhere"


def _session_headers(request: RecordedRequest) -> str:
    names = sorted({name.lower() for name in request.headers})
    identifying = [name for name in names if "session" in name or "thread" in name or name == "traceparent"]
    return ", ".join(identifying[:2]) or "–"


def _ended(report: Mapping[str, object], err: str) -> str:
    if "ended after" in err[-200:] or "ended after" in str(report.get("status", "")):
        return "killed"
    if report.get("detail") == NO_REPORT:
        return "no report"
    if "status" in report:
        return f"exit {report['status']}"
    return "error" if report.get("ok") is False and not report.get("text") else "answer"


def _shown(text: str) -> str:
    """Parts of the refusal that the client's output shows."""
    parts = [
        part for part, mark in (("code", "loop_stopped"), ("message", "repeats itself"), ("link", "To resume it:"))
        if mark in text
    ]  # fmt: skip
    return ", ".join(parts) or "no"


def table(results: Sequence[LoopResult]) -> str:
    """The results as Markdown, one row per run."""
    head = (
        "client", "mode", "profile", "session headers", "looping requests at the provider", "warn at", "nudge at",
        "note in", "stop at", "status", "after the stop", "ended", "user sees", "events (warn/nudge/stop)", "s", "verdict",
    )  # fmt: skip
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for result in results:
        steps = result.steps
        cells = (
            result.job.client.name, "resume" if result.resumed else result.job.scenario, result.job.profile,
            result.session_headers, result.looped, steps.get("warn", "–"), steps.get("nudge", "–"),
            result.note_position or "–", steps.get("stop", "–"), result.status or "–",
            result.after if result.status else "–", result.ended, result.shown if result.status else "–",
            "/".join(str(result.events.get(f"loop_{kind}", 0)) for kind in _EVENTS), f"{result.seconds:.0f}",
            result.verdict,
        )  # fmt: skip
        rows.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(rows)


def _line(result: LoopResult) -> str:
    mode = "resume" if result.resumed else result.job.scenario
    return (
        f"{result.verdict:20} {result.job.profile}.{result.job.client.name}.{mode} looped={result.looped} "
        f"steps={dict(result.steps)} status={result.status} after={result.after} ended={result.ended} "
        f"shown={result.shown} ({result.seconds:.1f} s) {result.report_text[:160]}"
    )


if __name__ == "__main__":
    sys.exit(main())
