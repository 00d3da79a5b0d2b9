"""Replays sessions with the answers received, perturbed as agents do; part of `session_links.py`."""

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
# SWE-agent's default: the last five observations are kept.
KEPT_TOOL_RESULTS = 5
RETRY_SHARE, FAILURE_SHARE = 0.03, 0.01
# Seconds between two calls, in which an agent runs its tool.
PAUSE_SECONDS = (0.0, 0.05)
CALL_SECONDS = 60.0

# (recorded, received) ids of tool calls.
CallIdPairs = list[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRun:
    """One true session to replay.

    group: runs whose pairs with each other are excluded if they belong to one job (`identical`, `forked`)
    kind: perturbation, or plain
    source: file of the recording
    seed: seed of this run's random choices
    """

    name: str
    group: str
    kind: str
    source: str
    dialect: str
    session: AgentSession
    seed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkedCall:
    """One call and the session that the gateway linked it to.

    branch: "" before a fork, then "a" or "b"
    step: number of the call in its run
    """

    run: AgentRun
    branch: str
    step: int
    is_retry: bool
    inferred_session: str


class ReplayClient:
    """Replays jobs, `concurrency` at once; calls go to the gateways round-robin."""

    def __init__(self, bases: list[str], concurrency: int) -> None:
        self._base_urls, self._concurrency = itertools.cycle(bases), concurrency
        self.calls: list[LinkedCall] = []
        # Digest of each run's opening and first answer.
        self.opening_digests: dict[str, int] = {}
        self.failures: Counter[str] = Counter()
        self.calls_without_session = 0

    async def replay(self, jobs: list[list[AgentRun]]) -> None:
        """Run every job to its end."""
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
    """The agent of one run: its history grows by the answers received and is sometimes rewritten."""

    def __init__(self, client: ReplayClient, run: AgentRun, branch: str = "", step: int = 0) -> None:
        self._client, self._run, self._branch, self._step = client, run, branch, step
        self._random = random.Random(f"{run.seed}{branch}")
        self._history: History = []
        self._ids: CallIdPairs = []
        count = run.session.call_count
        self._perturbation_step = self._random.randint(count // 2, max(count // 2, 2 * count // 3))
        self._forks_by_resampling = self._random.random() < 0.5

    async def run(self, first: int = 0) -> None:
        """Replay from message `first` to the end, or until a call fails."""
        messages = self._run.session.messages
        for index in range(first, len(messages)):
            message = {name: value for name, value in messages[index].items() if not name.startswith("_")}
            if message["role"] != "assistant" or not index or messages[index].get("_demo"):
                self._history.append(self._received_entry(message))
                continue
            is_perturbed = self._step == self._perturbation_step and not self._branch
            if is_perturbed and self._run.kind == "compacted":
                self._history = _compact(self._history, self._random)
            if is_perturbed and self._run.kind == "forked":
                await self._fork(message, index)
                return
            if not await self._call(message):
                return

    async def _fork(self, message: ChatMessage, index: int) -> None:
        """Continue in two branches: from two answers to one request, or from two requests after one answer."""
        if not self._forks_by_resampling and not await self._call(message):
            return
        next_index = index if self._forks_by_resampling else index + 1
        branches = [_Agent(self._client, self._run, name, self._step) for name in "ab"]
        for branch in branches:
            branch._history, branch._ids = list(self._history), list(self._ids)
        await asyncio.gather(*(branch.run(next_index) for branch in branches))

    def _received_entry(self, message: ChatMessage) -> HistoryEntry:
        """A user or tool message for the history; a tool result carries the call id that was received."""
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
        """Make one call and append its answer to the history; False if it failed."""
        await asyncio.sleep(self._random.uniform(*PAUSE_SECONDS))
        run, draw = self._run, self._random.random()
        sent_twice = run.kind != "identical" and draw < RETRY_SHARE + FAILURE_SHARE
        fails = sent_twice and draw < FAILURE_SHARE
        stream, answer_message = self._random.random() < 0.5, _branch_reply(reply) if self._branch == "b" else reply
        order = {"reply": answer_message, **({"fault": "status:503", "times": 1} if fails else {})}
        body = BODY_BUILDERS[run.dialect](self._visible_history(), run.session.tools)
        body |= {"model": MODELS[run.dialect], "stream": stream, "sim": order}
        encoded = orjson.dumps(body)
        received = None
        for is_retry in (False, True) if sent_twice else (False,):
            status, answer, session = await self._client.request(run, encoded)
            self._record_call(session, is_retry=is_retry or sent_twice)
            if status == 200:
                received = ANSWER_PARSERS[run.dialect](answer, stream)
            elif not (fails and status in (502, 503) and not is_retry):
                self._client.failures[f"{status} {answer[:200]!r}"] += 1
                return False
        if not self._step:
            self._client.opening_digests[run.name] = hash(
                orjson.dumps([*(entry.message for entry in self._history), received])
            )
        self._step += 1
        recorded = [str(call.get("id") or "") for call in reply.get("tool_calls") or ()]
        self._ids = list(zip(recorded, CALL_ID_GETTERS[run.dialect](received), strict=False))
        self._history.append(HistoryEntry(message=answer_message, received=received))
        return True

    def _record_call(self, session: str, *, is_retry: bool) -> None:
        if not session:
            self._client.calls_without_session += 1
            return
        call = LinkedCall(
            run=self._run, branch=self._branch, step=self._step, is_retry=is_retry, inferred_session=session
        )
        self._client.calls.append(call)

    def _visible_history(self) -> History:
        """The history as sent in the next request."""
        if self._run.kind == "elided":
            return _elide(self._history)
        if self._run.kind == "rewritten":
            return _add_clock(self._history, self._step, self._random)
        return self._history


def _compact(history: History, randomness: random.Random) -> History:
    """Replaces the older part by a summary; the last messages stay and do not begin with a tool result."""
    start = len(history) - randomness.randint(2, 4)
    while history[start].role == "tool":
        start -= 1
    system = [entry for entry in history[:start] if entry.role == "system"]
    text = " ".join(entry.text[:60] for entry in history[:start] if entry.role in ("user", "assistant"))
    summary = {"role": "user", "content": f"Summary of the conversation so far: {text[:2000]}"}
    return [*system, HistoryEntry(message=summary), *history[start:]]


def _elide(history: History) -> History:
    """Omits old tool output except for the last few, as SWE-agent does."""
    old = set(tool_output_positions([entry.message for entry in history])[:-KEPT_TOOL_RESULTS])
    return [
        HistoryEntry(
            message={**entry.message, "content": f"Old output omitted ({entry.text.count(chr(10)) + 1} lines)"}
        )
        if index in old
        else entry
        for index, entry in enumerate(history)
    ]


def _add_clock(history: History, step: int, randomness: random.Random) -> History:
    """Adds the time to the system prompt, which is added where there is none."""
    clock = f"The current time is 2026-02-03T10:{step // 60:02d}:{step % 60:02d}.{randomness.randrange(1000):03d}Z."
    rest = [entry for entry in history if entry.role != "system"]
    system = "\n".join(entry.text for entry in history if entry.role == "system")
    return [HistoryEntry(message={"role": "system", "content": f"{system}\n{clock}"}), *rest]


def _branch_reply(reply: ChatMessage) -> ChatMessage:
    """The answer of the other branch: different text and ids."""
    calls = [{**call, "id": f"{call.get('id') or 'call'}b"} for call in reply.get("tool_calls") or ()]
    message = {**reply, "content": f"Another way: {reply.get('content') or ''}"}
    return {**message, "tool_calls": calls} if calls else message


def tool_output_positions(messages: Sequence[ChatMessage]) -> list[int]:
    """Indexes of tool output; an agent that acts in plain text receives it as user messages."""
    tools = [index for index, message in enumerate(messages) if message["role"] == "tool"]
    return tools or [index for index, message in enumerate(messages) if message["role"] == "user"][1:]
