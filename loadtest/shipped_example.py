"""Replays recorded sessions behind the budgets and session caps of the shipped config/routing.yaml."""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

import orjson
from session_runs import HoldOutcomes, SessionRun, upstream_answer

from gateway.accounting import pricing
from gateway.accounting.budgets import BudgetAccounts
from gateway.config.load import parse
from gateway.dialects import chat
from gateway.providers.upstream_call import UpstreamCall
from gateway.simulator.playbook import FakeCallerStream, Playbook, UpstreamAnswer
from gateway.values.budget import Measure
from gateway.values.caller_response import CallerResponse
from gateway.values.request import Caller, HeaderHints
from gateway.values.snapshot import Snapshot

_CONFIG = Path(__file__).resolve().parent.parent / "config" / "routing.yaml"
_CALLER = Caller(key="my-agent", team="my-team")
# Codes of refusals by a budget or a cap.
_REFUSAL_CODES = {"budget_exceeded", "cap_exceeded", "budget_held"}
_answer_of_call: ContextVar[UpstreamAnswer] = ContextVar("answer_of_call")


async def replay_shipped(runs: Sequence[SessionRun], parallel: int, max_tokens: int | None) -> HoldOutcomes:
    """Replay each session alone, `parallel` of its calls at a time.

    Sessions that cost more than the caps allow at the most expensive deployment are left out.
    """
    text = _CONFIG.read_text().replace("{mode: enforce", "{mode: shadow")
    snapshot = parse(text, str(_CONFIG), {"PENSTOCK_KEY_MY_AGENT": "secret-of-an-agent", "OPENAI_API_KEY": "k"})[0]
    book, tally = _ParallelPlaybook(snapshot), HoldOutcomes()
    for run in runs:
        if _fits(snapshot, run):
            # The day and the month are new for each session.
            book.budget_accounts = BudgetAccounts()
            await _replay_session(book, run, parallel, max_tokens, tally)
    return tally


class _ParallelPlaybook(Playbook):
    """A playbook whose provider answers once all calls of a wave are dialed or refused, each as its task says."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(snapshot, [])
        self._undecided: set[asyncio.Task[CallerResponse]] = set()
        self._all_decided = asyncio.Event()
        self.clock.on_sleep = self._sleep

    async def answers_of(self, calls: Iterable[Coroutine[Any, Any, CallerResponse]]) -> list[CallerResponse]:
        """The answers to calls that are all in flight at the same time."""
        self._all_decided = asyncio.Event()
        tasks = [asyncio.ensure_future(call) for call in calls]
        self._undecided = set(tasks)
        for task in tasks:
            task.add_done_callback(self._decided)
        return await asyncio.gather(*tasks)

    async def dial(self, call: UpstreamCall) -> UpstreamAnswer:
        """The answer of the current task."""
        self._decided(asyncio.current_task())
        await self._all_decided.wait()
        self.upstream_calls.append(call)
        return _answer_of_call.get()

    def _decided(self, task: asyncio.Task[Any] | None) -> None:
        self._undecided.discard(cast("asyncio.Task[CallerResponse]", task))
        if not self._undecided:
            self._all_decided.set()

    async def _sleep(self, seconds: float) -> None:
        self.clock.seconds += seconds
        await asyncio.sleep(0)


async def _replay_session(
    book: _ParallelPlaybook, run: SessionRun, parallel: int, max_tokens: int | None, tally: HoldOutcomes
) -> None:
    tally.sessions += 1
    source = tally.by_source.setdefault(run.name.partition(".")[0], [0, 0])
    source[0] += 1
    first_entry = len(book.ledger_entries)
    for first in range(0, len(run.calls), parallel):
        numbers = range(first, min(first + parallel, len(run.calls)))
        answers = await book.answers_of([_call(book, run, number, max_tokens) for number in numbers])
        tally.calls += len(answers)
        if any(_is_refusal(answer) for answer in answers):
            tally.refused += 1
            source[1] += 1
            tally.refused_at_first_call += first == 0 and _is_refusal(answers[0])
            break
    entries = book.ledger_entries[first_entry:]
    tally.answers_shortened += sum(
        entry.code == "hold_exhausted" or "output tokens" in entry.reason for entry in entries
    )
    (cap,) = [budget for budget in book.snapshot.default_caps.tree_budgets if budget.measure is Measure.nusd]
    excess = sum(entry.charge_nusd for entry in entries) - cap.limit
    tally.budgets_overspent += excess > 0
    tally.worst_excess_nusd = max(tally.worst_excess_nusd, excess)
    book.events.clear()
    book.upstream_calls.clear()
    book.ledger_entries.clear()


async def _call(book: _ParallelPlaybook, run: SessionRun, number: int, max_tokens: int | None) -> CallerResponse:
    body, usage, text = run.calls[number]
    document = {**orjson.loads(body), "model": "auto", "stream": run.stream}
    if max_tokens:
        document["max_tokens"] = max_tokens
    _answer_of_call.set(upstream_answer(usage, text, stream=run.stream))
    hints = HeaderHints(session=run.name, session_source="x")
    request = chat.parse(orjson.dumps(document))
    return await book.pipeline.serve(request, _CALLER, hints, FakeCallerStream(book.events))


def _is_refusal(answer: CallerResponse) -> bool:
    return answer.status != 200 and orjson.loads(answer.body)["error"]["code"] in _REFUSAL_CODES


def _fits(snapshot: Snapshot, run: SessionRun) -> bool:
    """Whether the caps allow the session's number of calls, and its cost at every deployment."""
    prices = [sheet for deployment in snapshot.deployments.values() if (sheet := deployment.price_sheet) is not None]
    cost = sum(max(pricing.charge(sheet, usage) for sheet in prices) for _, usage, _ in run.calls)
    used = {Measure.nusd: cost, Measure.calls: len(run.calls)}
    return all(used[budget.measure] <= budget.limit for budget in snapshot.default_caps.tree_budgets)
