"""Agents as they live: sessions replayed with what was really answered, and rewritten as agents do; part of `links.py`."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import orjson
from session_links_dialects import ANSWER_PARSERS, BODY_BUILDERS, CALL_ID_GETTERS, PATHS, History, HistoryEntry

from gateway.simulator.agent_sessions import AgentSession, ChatMessage

KEY = "links-key"
MODELS = {"chat": "openai", "responses": "openai", "messages": "anthropic"}
# SWE-agent's default: the last five observations stay.
KEPT_TOOL_RESULTS = 5
RETRY_SHARE, FAILURE_SHARE = 0.03, 0.01
# Between two calls an agent runs its tool (seconds).
PAUSE_SECONDS = (0.0, 0.05)
CALL_SECONDS = 60.0

# A tool call's id as it was recorded, and as it was received.
CallIdPairs = list[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRun:
    """One true session: what is replayed, how, and among which others. `group`: runs whose pairs across are left out
    if they are of one job (`identical`, `forked`)."""

    name: str
    group: str
    kind: str
    source: str
    dialect: str
    session: AgentSession
    seed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkedCall:
    """One call as it was linked. `branch` is "" before a fork, then "a" or "b"; `step` counts the run's calls."""

    run: AgentRun
    branch: str
    step: int
    is_retry: bool
    inferred_session: str


class ReplayClient:
    """Replays jobs, so many at once; every call in turn at the next gateway."""

    def __init__(self, bases: list[str], at_once: int) -> None:
        self._base_urls, self._concurrency = itertools.cycle(bases), at_once
        self.calls: list[LinkedCall] = []
        # Each run's opening and the first answer that it received, as a digest.
        self.opening_digests: dict[str, int] = {}
        self.failures: Counter[str] = Counter()
        self.calls_without_session = 0

    async def replay(self, jobs: list[list[AgentRun]]) -> None:
        """Every job to its end."""
        queue = iter(jobs)
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as self._http:

            async def worker() -> None:
                for job in queue:
                    await asyncio.gather(*(_Agent(self, run).run() for run in job))

            await asyncio.gather(*(worker() for _ in range(self._concurrency)))

    async def request(self, run: AgentRun, body: bytes) -> tuple[int, bytes, str]:
        """(status, answer, session)."""
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        if run.dialect == "messages":
            headers["anthropic-version"] = "2023-06-01"
        async with self._http.post(next(self._base_urls) + PATHS[run.dialect], data=body, headers=headers) as answer:
            return answer.status, await answer.read(), answer.headers.get("x-penstock-session", "")


class _Agent:
    """One run as its agent lives it: a history that grows by what was received, and is rewritten now and then."""

    def __init__(self, client: ReplayClient, run: AgentRun, branch: str = "", step: int = 0) -> None:
        self._client, self._run, self._branch, self._step = client, run, branch, step
        self._chance = random.Random(f"{run.seed}{branch}")
        self._history: History = []
        self._ids: CallIdPairs = []
        count = run.session.call_count
        self._perturbation_step = self._chance.randint(count // 2, max(count // 2, 2 * count // 3))
        self._forks_by_resampling = self._chance.random() < 0.5

    async def run(self, first: int = 0) -> None:
        """From this message on to the end, or until a call fails."""
        messages = self._run.session.messages
        for place in range(first, len(messages)):
            message = {name: value for name, value in messages[place].items() if not name.startswith("_")}
            if message["role"] != "assistant" or not place or messages[place].get("_demo"):
                self._history.append(self._received_entry(message))
                continue
            turning = self._step == self._perturbation_step and not self._branch
            if turning and self._run.kind == "compacted":
                self._history = _compact(self._history, self._chance)
            if turning and self._run.kind == "forked":
                await self._fork(message, place)
                return
            if not await self._call(message):
                return

    async def _fork(self, message: ChatMessage, place: int) -> None:
        """Two branches go on: from two answers to the same request, or from one answer to two requests."""
        if not self._forks_by_resampling and not await self._call(message):
            return
        after = place if self._forks_by_resampling else place + 1
        branches = [_Agent(self._client, self._run, branch, self._step) for branch in "ab"]
        for one in branches:
            one._history, one._ids = list(self._history), list(self._ids)
        await asyncio.gather(*(one.run(after) for one in branches))

    def _received_entry(self, message: ChatMessage) -> HistoryEntry:
        """What the user or a tool said; a tool's result carries the id that was received."""
        if self._branch == "b":
            message = {**message, "content": f"Another way: {message.get('content') or ''}"}
        if message["role"] != "tool":
            return HistoryEntry(message=message)
        recorded = str(message.get("tool_call_id") or "")
        pair = next((pair for pair in self._ids if pair[0] == recorded), self._ids[0] if self._ids else None)
        if pair is None:
            return HistoryEntry(message={**message, "tool_call_id": recorded})
        self._ids.remove(pair)
        return HistoryEntry(message={**message, "tool_call_id": pair[1]})

    async def _call(self, reply: ChatMessage) -> bool:
        """One call, its answer into the history; False if it failed."""
        await asyncio.sleep(self._chance.uniform(*PAUSE_SECONDS))
        run, luck = self._run, self._chance.random()
        unlucky = run.kind != "identical" and luck < RETRY_SHARE + FAILURE_SHARE
        fails = unlucky and luck < FAILURE_SHARE
        stream, said = self._chance.random() < 0.5, _branch_reply(reply) if self._branch == "b" else reply
        order = {"reply": said, **({"fault": "status:503", "times": 1} if fails else {})}
        body = BODY_BUILDERS[run.dialect](self._visible_history(), run.session.tools)
        body |= {"model": MODELS[run.dialect], "stream": stream, "sim": order}
        encoded = orjson.dumps(body)
        received = None
        for again in (False, True) if unlucky else (False,):
            status, answer, session = await self._client.request(run, encoded)
            self._record_call(session, again=again or unlucky)
            if status == 200:
                received = ANSWER_PARSERS[run.dialect](answer, stream)
            elif not (fails and status in (502, 503) and not again):
                self._client.failures[f"{status} {answer[:200]!r}"] += 1
                return False
        if not self._step:
            self._client.opening_digests[run.name] = hash(
                orjson.dumps([*(one.message for one in self._history), received])
            )
        self._step += 1
        recorded = [str(call.get("id") or "") for call in reply.get("tool_calls") or ()]
        self._ids = list(zip(recorded, CALL_ID_GETTERS[run.dialect](received), strict=False))
        self._history.append(HistoryEntry(message=said, received=received))
        return True

    def _record_call(self, session: str, *, again: bool) -> None:
        if not session:
            self._client.calls_without_session += 1
            return
        call = LinkedCall(run=self._run, branch=self._branch, step=self._step, is_retry=again, inferred_session=session)
        self._client.calls.append(call)

    def _visible_history(self) -> History:
        """The history as this request shows it."""
        if self._run.kind == "elided":
            return _elide(self._history)
        if self._run.kind == "rewritten":
            return _add_clock(self._history, self._step, self._chance)
        return self._history


def _compact(history: History, randomness: random.Random) -> History:
    """The older part replaced by a summary; the last messages stay, beginning with no tool's."""
    start = len(history) - randomness.randint(2, 4)
    while history[start].role == "tool":
        start -= 1
    system = [entry for entry in history[:start] if entry.role == "system"]
    told = " ".join(entry.text[:60] for entry in history[:start] if entry.role in ("user", "assistant"))
    summary = {"role": "user", "content": f"Summary of the conversation so far: {told[:2000]}"}
    return [*system, HistoryEntry(message=summary), *history[start:]]


def _elide(history: History) -> History:
    """Old tool output left out, all but the last few, as SWE-agent does it."""
    old = set(tool_output_positions([entry.message for entry in history])[:-KEPT_TOOL_RESULTS])
    return [
        HistoryEntry(
            message={**entry.message, "content": f"Old output omitted ({entry.text.count(chr(10)) + 1} lines)"}
        )
        if place in old
        else entry
        for place, entry in enumerate(history)
    ]


def _add_clock(history: History, step: int, randomness: random.Random) -> History:
    """A clock in the system prompt; one is added where there is none."""
    clock = f"The current time is 2026-02-03T10:{step // 60:02d}:{step % 60:02d}.{randomness.randrange(1000):03d}Z."
    rest = [entry for entry in history if entry.role != "system"]
    system = "\n".join(entry.text for entry in history if entry.role == "system")
    return [HistoryEntry(message={"role": "system", "content": f"{system}\n{clock}"}), *rest]


def _branch_reply(reply: ChatMessage) -> ChatMessage:
    """The answer as another branch gets it: other words, other ids."""
    calls = [{**call, "id": f"{call.get('id') or 'call'}b"} for call in reply.get("tool_calls") or ()]
    said = {**reply, "content": f"Another way: {reply.get('content') or ''}"}
    return {**said, "tool_calls": calls} if calls else said


def tool_output_positions(messages: Sequence[ChatMessage]) -> list[int]:
    """Where tool output stands; an agent that acts in plain text gets it as user messages."""
    tools = [place for place, message in enumerate(messages) if message["role"] == "tool"]
    return tools or [place for place, message in enumerate(messages) if message["role"] == "user"][1:]
