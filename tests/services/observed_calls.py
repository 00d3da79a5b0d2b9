"""Calls of a real pipeline in front of a scripted provider, as observers receive them."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gateway.pipeline.context import AttemptProgress, RequestContext
from gateway.pipeline.ports import CallObserver
from gateway.routing.scorer import Scorer
from gateway.simulator.playbook import CALLER, Playbook, UpstreamAnswer
from gateway.values.errors import UpstreamError
from gateway.values.ledger_entry import LedgerEntry
from gateway.values.snapshot import Snapshot


class ObservedCall(NamedTuple):
    """One call that has ended."""

    context: RequestContext
    progress: AttemptProgress
    entry: LedgerEntry


EndOfCall = Callable[[RequestContext, AttemptProgress, LedgerEntry], None]


class ObservedCalls:
    """Records calls, and passes them on.

    observer: notified of every call
    on_end: notified of its end only
    """

    def __init__(self, observer: CallObserver | None = None, on_end: EndOfCall | None = None) -> None:
        self._observer = observer
        self._on_end = on_end
        self.calls: list[ObservedCall] = []

    def call_started(self, context: RequestContext, progress: AttemptProgress) -> None:
        if self._observer is not None:
            self._observer.call_started(context, progress)

    def call_ended(self, context: RequestContext, progress: AttemptProgress, entry: LedgerEntry) -> None:
        self.calls.append(ObservedCall(context, progress, entry))
        if self._observer is not None:
            self._observer.call_ended(context, progress, entry)
        if self._on_end is not None:
            self._on_end(context, progress, entry)


def request_body(text: str = "hi", **fields: Any) -> bytes:
    """A chat request."""
    document = {"model": "auto", "messages": [{"role": "user", "content": text}], "max_tokens": 100, **fields}
    return json.dumps(document).encode()


def answer(text: str = "hello", *, status: int = 200, output_tokens: int = 10, **message: Any) -> UpstreamAnswer:
    """A whole chat answer."""
    usage = {"prompt_tokens": 20, "completion_tokens": output_tokens, "total_tokens": 20 + output_tokens}
    document = {"choices": [{"message": {"role": "assistant", "content": text, **message}}], "usage": usage}
    return UpstreamAnswer(status=status, body=[json.dumps(document).encode()])


class ObservedPlaybook(Playbook):
    """A playbook that records its calls."""

    def __init__(
        self,
        snapshot: Snapshot,
        provider: Sequence[UpstreamAnswer | UpstreamError],
        observer: CallObserver | None = None,
        on_end: EndOfCall | None = None,
        scorer: Scorer | None = None,
    ) -> None:
        self.observed = ObservedCalls(observer, on_end)
        super().__init__(snapshot, provider, observer=self.observed, scorer=scorer)

    async def call(self, body: bytes | None = None, **hints: str) -> ObservedCall:
        """Serves one request; returns its last call."""
        await self.ask(request_body() if body is None else body, CALLER, **hints)
        return self.observed.calls[-1]


async def observed_call(snapshot: Snapshot, body: bytes | None = None, **hints: str) -> ObservedCall:
    """One call of a new pipeline."""
    return await ObservedPlaybook(snapshot, [answer()]).call(body, **hints)
