"""The life of one request, top to bottom, and the Protocols it needs from the world outside.

Reserving may await, resolving never does: asyncio switches only at `await`, so the `finally` that settles a call cannot
be torn apart by cancellation, and every reservation is resolved exactly once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec import structs

from . import settlement, story
from .accounting import budgets as books
from .accounting.budgets import Amounts, Exceeded, Line, LineCache, Reservation
from .errors import BrokenAnswer, CallerGone, NotFound, Overloaded, Unreachable, UpstreamError, UpstreamTimeout
from .providers import PROVIDERS
from .providers.openai_compatible import UpstreamCall
from .routing import plan as planning
from .routing.classifiers import CLASSIFIERS
from .routing.facts import facts_of
from .routing.health import HealthBook
from .routing.retry import Next, next_attempt
from .sessions import caps, loops
from .sessions.identity import Session, SessionBook
from .settlement import Decided, Progress
from .values.answer import Answer
from .values.base import Value
from .values.entry import Hold, LedgerEntry
from .values.plan import Attempt, Plan, Refusal
from .values.request import Caller, Hints, Message, Request
from .values.world import World
from .wire import chat
from .wire.chat_stream import ChatStream

# More than any answer of the field (a 128k-token answer is under 1 MB); past it the provider is flooding us.
ANSWER_BYTES_MAX = 64 * 1024 * 1024
# Of a provider's error body; enough for its message.
_ERROR_BYTES_MAX = 256 * 1024
# A lease outlives the longest call by this much: a caller may stall twice a minute before it is given up.
_LEASE_GRACE_SECONDS = 300.0


class Clock(Protocol):
    """The time: `now` in seconds since the epoch, `monotonic` in seconds from anywhere."""

    def now(self) -> float: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


class Chance(Protocol):
    """What is not determined: fresh request ids, jitter in [0, 1)."""

    def request_id(self) -> str: ...
    def jitter(self) -> float: ...


class Budgets(Protocol):
    """Where holds are taken; reserving may ask a shared store, resolving must not wait."""

    async def reserve(
        self, reservation_id: str, lines: tuple[Line, ...], offers: Sequence[Amounts], *, now: float, lease: float
    ) -> Reservation | Exceeded: ...
    def settle(self, reservation_id: str, spent: Amounts) -> bool: ...


class Ledger(Protocol):
    """The memory. `hold` writes down what a crash would leave behind and raises Overloaded if it cannot; `record` takes
    the fact and never fails for the request."""

    def hold(self, hold: Hold) -> None: ...
    def record(self, entry: LedgerEntry) -> None: ...


class Counter(Protocol):
    """Counts tokens with a vocabulary, slowly; None if it cannot."""

    async def count(self, messages: Sequence[Message]) -> int | None: ...


class Answering(Protocol):
    """A provider's answer that has begun. `chunk` gives b"" at the end; both raise UpstreamError."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    async def read(self, limit: int) -> bytes: ...
    async def chunk(self) -> bytes: ...
    def close(self) -> None: ...


class Upstream(Protocol):
    """The door to providers; raises Unreachable or UpstreamTimeout."""

    async def dial(self, call: UpstreamCall) -> Answering: ...


class Reply(Protocol):
    """The caller's side of a stream; `begin` and `write` raise CallerGone."""

    async def begin(self, status: int, headers: Mapping[str, str]) -> None: ...
    async def write(self, data: bytes) -> None: ...


class _Failed(Value, frozen=True, kw_only=True):
    """An attempt that did not serve: what to tell the caller if it was the last, what may be tried, what will be."""

    answer: Answer
    retry_same: bool
    try_other: bool
    retry_after: float | None
    following: Next | None = None


class Exchange:
    """Serves requests. Holds the books of this process and the doors, nothing about any request."""

    def __init__(
        self,
        *,
        world: Callable[[], World],
        budgets: Budgets,
        sessions: SessionBook,
        health: HealthBook,
        upstream: Upstream,
        counter: Counter,
        ledger: Ledger,
        clock: Clock,
        chance: Chance,
    ) -> None:
        self._world = world
        self._budgets = budgets
        self._sessions = sessions
        self._health = health
        self._upstream = upstream
        self._counter = counter
        self._ledger = ledger
        self._clock = clock
        self._chance = chance
        self._lines = LineCache()

    async def serve(self, request: Request, caller: Caller, hints: Hints, reply: Reply) -> Answer:
        """Answer one request: whole, or streamed through `reply`. Raises errors of the tree, each already recorded."""
        decided = self._decide(request, caller, hints)
        if planning.close_to_a_limit(decided.facts, decided.route):
            decided = await self._counted(decided)
        plan = self._plan(decided)
        if isinstance(plan, Refusal):
            return self._refuse(decided, plan, attempts=0)
        return await self._run(decided, plan, hints, reply)

    def _decide(self, request: Request, caller: Caller, hints: Hints) -> Decided:
        world, at = self._world(), self._clock.now()
        route = world.routes.get(request.model)
        if route is None:
            raise NotFound(
                f"The model '{request.model}' does not exist here. GET /v1/models lists what does.",
                code="model_not_found",
                param="model",
            )
        request_id = self._chance.request_id()
        session = self._session(request, caller, hints, request_id, at)
        loops.observe(session, request.messages)
        facts = facts_of(request)
        verdict = CLASSIFIERS["transparent"](facts, world.task_types, declared=hints.task_type)
        return Decided(
            request_id=request_id,
            at=at,
            started=self._clock.monotonic(),
            world=world,
            caller=caller,
            request=request,
            session=session,
            route=route,
            facts=facts,
            verdict=verdict,
            loop_step=loops.step_of(session, world.loops),
        )

    async def _counted(self, decided: Decided) -> Decided:
        """The same with an exact input count: here the number decides whether a candidate is struck."""
        count = await self._counter.count(decided.request.messages)
        if count is None:
            return decided
        facts = structs.replace(decided.facts, input_tokens=min(count, decided.facts.input_tokens_max))
        return structs.replace(decided, facts=facts)

    def _session(self, request: Request, caller: Caller, hints: Hints, request_id: str, at: float) -> Session:
        if hints.session is not None:
            return self._sessions.named(caller.key, hints.session, hints.session_source, now=at)
        return self._sessions.inferred(caller.key, request, fresh_id=f"s-{request_id}", now=at)

    def _plan(self, decided: Decided) -> Plan | Refusal:
        world, session = decided.world, decided.session
        if decided.loop_step == "stop" and world.loops.enforce:
            return loops.refusal(session, world.loops)
        late = caps.overtime(world.caps, session, now=decided.at)
        if late is not None:
            return late
        now = self._clock.monotonic()
        return planning.decide(
            decided.route,
            decided.request,
            decided.facts,
            decided.verdict,
            world.policy,
            lambda name: self._health.healthy(name, now=now),
        )

    async def _run(self, decided: Decided, plan: Plan, hints: Hints, reply: Reply) -> Answer:
        """Attempts one after the other until one serves, none is left, or no budget holds the next."""
        place, number, tries = 0, 0, [0] * len(plan.attempts)
        between = False
        try:
            while True:
                number += 1
                reserved = await self._reserve(decided, plan, place, number)
                if isinstance(reserved, Refusal):
                    between = False
                    return self._refuse(decided, reserved, attempts=number - 1)
                place = reserved
                tries[place] += 1
                progress = Progress(number=number, attempt=plan.attempts[place])
                self._journal(decided, progress)
                between = False
                result = await self._attempt(decided, plan, progress, tries[place], hints, reply)
                if isinstance(result, Answer):
                    return result
                if result.following is None:
                    return result.answer
                between, place = True, result.following.place
                if result.following.wait_seconds:
                    await self._clock.sleep(result.following.wait_seconds)
        finally:
            if between:
                # The caller hung up, or we had to give up, between two attempts: the request still ends in one entry.
                self._ledger.record(settlement.entry_of_end(decided, attempts=number, now=self._clock.monotonic()))

    async def _reserve(self, decided: Decided, plan: Plan, place: int, number: int) -> int | Refusal:
        """Hold the attempt at `place`, else the next one after it that takes no more; gives the place that fitted."""
        world = decided.world
        caller, now = decided.caller, self._clock.now()
        lines = self._lines.of(world.budgets, (caller.key, caller.team, decided.verdict.task_type), now=now)
        lines += caps.lines_of(world.caps, decided.session, caller.key, now=now)
        places = _affordable(plan.attempts, place)
        offers = [(a.hold_nusd, a.hold_millijoules, 1) for a in (plan.attempts[at] for at in places)]
        lease = max(plan.attempts[at].deployment.timeouts.total for at in places) + _LEASE_GRACE_SECONDS
        reserved = await self._budgets.reserve(f"{decided.request_id}.{number}", lines, offers, now=now, lease=lease)
        if isinstance(reserved, Exceeded):
            return books.refusal(reserved, now)
        return places[reserved.choice]

    def _journal(self, decided: Decided, progress: Progress) -> None:
        """Write down, before dialling, what a crash would leave behind."""
        hold = settlement.hold_of_attempt(decided, progress.number, progress.attempt)
        try:
            self._ledger.hold(hold)
        except Overloaded:
            self._budgets.settle(hold.id, (0, 0, 0))
            raise

    async def _attempt(
        self, decided: Decided, plan: Plan, progress: Progress, tries: int, hints: Hints, reply: Reply
    ) -> Answer | _Failed:
        """One call: dial, meter, settle. Exactly one ledger entry, however it ends."""
        deployment = progress.attempt.deployment
        answering: Answering | None = None
        result: Answer | _Failed | None = None
        try:
            call = PROVIDERS[deployment.dialect].call(decided.request, deployment, hints.forward)
            progress.dialled = True
            answering = await self._upstream.dial(call)
            progress.first_byte = self._clock.monotonic()
            result = await self._answered(decided, progress, answering, reply)
        except UpstreamError as error:
            result = await self._broken(decided, progress, error, reply)
        except CallerGone:
            raise
        except Exception:
            progress.outcome, progress.status, progress.code = "cut", 500, "internal_error"
            raise
        finally:
            if answering is not None:
                answering.close()
            if isinstance(result, _Failed):
                result = self._followed(decided, plan, progress, tries, result)
            entry = self._settle(decided, progress, final=not isinstance(result, _Failed) or result.following is None)
        if isinstance(result, _Failed):
            return structs.replace(result, answer=story.told(result.answer, decided, progress.attempt, entry))
        return story.told(result, decided, progress.attempt, entry)

    def _followed(self, decided: Decided, plan: Plan, progress: Progress, tries: int, failed: _Failed) -> _Failed:
        following = next_attempt(
            place=plan.attempts.index(progress.attempt),
            places=len(plan.attempts),
            tries_here=tries,
            max_retries=decided.world.policy.max_retries,
            retry_same=failed.retry_same,
            try_other=failed.try_other,
            retry_after=failed.retry_after,
            jitter=self._chance.jitter(),
        )
        return structs.replace(failed, following=following)

    async def _answered(
        self, decided: Decided, progress: Progress, answering: Answering, reply: Reply
    ) -> Answer | _Failed:
        """The provider's status line is here."""
        provider = PROVIDERS[progress.attempt.deployment.dialect]
        if not 200 <= answering.status < 300:
            return await self._rejected(decided, progress, answering)
        headers = provider.returned(answering.headers)
        if decided.request.stream and "event-stream" in answering.headers.get("Content-Type", ""):
            return await self._stream(decided, progress, answering, headers, reply)
        body = await answering.read(ANSWER_BYTES_MAX)
        progress.answered, progress.text_bytes = True, len(body)
        answer = provider.answer_of(body)
        if answer is None:
            raise BrokenAnswer("The provider's answer is not JSON.")
        progress.usage, progress.text_bytes = answer
        self._completed(progress, answering.status)
        return Answer(status=answering.status, headers=headers, body=body)

    async def _stream(
        self, decided: Decided, progress: Progress, answering: Answering, headers: Mapping[str, str], reply: Reply
    ) -> Answer:
        """Forward chunk by chunk; backpressure is the await on the caller's socket. No second attempt after `begin`."""
        headers = {**headers, **story.of_attempt(decided, progress.attempt)}
        stream = progress.stream = ChatStream(withhold_usage=not decided.request.wants_usage)
        begun, received = False, 0
        while data := await answering.chunk():
            received += len(data)
            if received > ANSWER_BYTES_MAX:
                raise BrokenAnswer("The provider's answer is longer than any answer.")
            out = stream.feed(data)
            if out:
                if not begun:
                    await reply.begin(answering.status, headers)
                    begun = progress.answered = True
                await reply.write(out)
            if stream.done:
                # The caller has its end and may hang up now: nothing may be awaited any more before this is settled.
                break
        rest = stream.finish()
        if not stream.ended and stream.error is None:
            raise BrokenAnswer("The provider ended the stream before the answer was complete.")
        if not begun:
            await reply.begin(answering.status, headers)
            progress.answered = True
        if rest:
            await reply.write(rest)
        self._completed(progress, answering.status)
        if stream.error is not None:
            progress.outcome, progress.code = "cut", "upstream_error"
        return Answer(status=answering.status, headers=headers, streamed=True)

    async def _rejected(self, decided: Decided, progress: Progress, answering: Answering) -> Answer | _Failed:
        """The provider answered with an error status; none of them charges for that."""
        provider = PROVIDERS[progress.attempt.deployment.dialect]
        progress.refused = True
        body = await answering.read(_ERROR_BYTES_MAX)
        failure = provider.failure_of(answering.status, body)
        passed = not failure.retry_same and not failure.try_other
        progress.outcome = "rejected" if passed else "upstream_error"
        progress.status, progress.code = answering.status, failure.code
        retry_after = _seconds(answering.headers.get("Retry-After"))
        if failure.retry_same:
            self._health.failed(progress.attempt.deployment.name, now=self._clock.monotonic(), retry_after=retry_after)
        if failure.hide:
            error = UpstreamError(f"The provider answered with status {answering.status}.", code=failure.code)
            answer = chat.failed(error)
        else:
            answer = Answer(status=answering.status, headers=provider.returned(answering.headers), body=body)
        progress.status = answer.status
        if passed:
            return answer
        return _Failed(
            answer=answer, retry_same=failure.retry_same, try_other=failure.try_other, retry_after=retry_after
        )

    async def _broken(
        self, decided: Decided, progress: Progress, error: UpstreamError, reply: Reply
    ) -> Answer | _Failed:
        """No usable answer. Before the first byte another attempt may follow; after it, the stream ends with an error."""
        begun = progress.stream is not None and progress.answered
        progress.outcome = "cut" if begun else "upstream_error"
        progress.status, progress.code = error.status, error.code
        if isinstance(error, Unreachable):
            progress.dialled = False
        self._health.failed(progress.attempt.deployment.name, now=self._clock.monotonic())
        if begun:
            await reply.write(chat.error_event(error))
            return Answer(status=200, headers={}, streamed=True)
        same = error.retryable and not isinstance(error, UpstreamTimeout)
        return _Failed(answer=chat.failed(error), retry_same=same, try_other=True, retry_after=None)

    def _completed(self, progress: Progress, status: int) -> None:
        progress.outcome, progress.status, progress.code = "completed", status, ""
        self._health.succeeded(progress.attempt.deployment.name)

    def _settle(self, decided: Decided, progress: Progress, *, final: bool) -> LedgerEntry:
        """Usage -> charge -> footprint -> reservation -> ledger, without one await."""
        entry = settlement.entry_of_attempt(decided, progress, final=final, now=self._clock.monotonic())
        spent = (entry.charge_nusd, entry.energy_mj_mid, int(entry.usage_basis != "none"))
        # False if the lease ran out first: the budget was charged in full then, and the ledger says what it really was.
        self._budgets.settle(entry.id, spent)
        decided.session.calls += spent[2]
        decided.session.charge_nusd += entry.charge_nusd
        self._ledger.record(entry)
        return entry

    def _refuse(self, decided: Decided, refusal: Refusal, *, attempts: int) -> Answer:
        answer = chat.refused(refusal)
        now = self._clock.monotonic()
        self._ledger.record(
            settlement.entry_of_refusal(decided, refusal, status=answer.status, attempts=attempts, now=now)
        )
        return Answer(status=answer.status, headers={**answer.headers, **story.of_case(decided)}, body=answer.body)


def _affordable(attempts: Sequence[Attempt], place: int) -> list[int]:
    """`place`, then the places after it whose holds are smaller: what a budget that is too tight may fall back to."""
    first = attempts[place]
    return [place, *(at for at in range(place + 1, len(attempts)) if _takes_less(attempts[at], first))]


def _takes_less(other: Attempt, first: Attempt) -> bool:
    """Less money or less energy; what is unknown is more than anything known."""
    return _less(other.hold_nusd, first.hold_nusd) or _less(other.hold_millijoules, first.hold_millijoules)


def _less(one: int | None, other: int | None) -> bool:
    return one is not None and (other is None or one < other)


def _seconds(text: str | None) -> float | None:
    """A Retry-After of plain seconds; dates and nonsense count as not given."""
    try:
        seconds = float(text) if text is not None else -1.0
    except ValueError:
        return None
    return seconds if 0 <= seconds < 86_400 else None
