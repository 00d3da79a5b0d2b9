"""What one call took: usage -> charge -> footprint -> ledger entry. Pure; used by the exchange when a call ends."""

from msgspec import structs

from ..accounting import pricing, token_estimate
from ..carbon.footprint import (
    UNKNOWN,
    carbon_micrograms_at,
    carbon_micrograms_held,
    energy_millijoules_mid,
    footprint,
)
from ..providers import PROVIDERS
from ..values.budget import Amounts, Reservation
from ..values.catalog import UNKNOWN_METHOD, Deployment, Footprint
from ..values.ledger_entry import Hold, LedgerEntry
from ..values.plan import Attempt, Refusal
from ..values.usage import NO_USAGE, Usage
from .context import Decided, Progress

# Something passed through that said nothing of tokens.
_PASSED = Usage(input=0, output=0, exact=False)


def usage_of_attempt(decided: Decided, progress: Progress) -> Usage:
    """What the attempt took: the provider's count, else what was seen of the answer, else the worst case.

    An answer of which nothing was seen may have cost anything up to its hold; it is charged as that.
    """
    passage = decided.request.passage
    if not progress.dialled or progress.refused or (passage is not None and passage.free):
        return NO_USAGE
    if _unseen(decided, progress):
        return _as_held(decided, progress.attempt)
    if progress.stream is not None:
        exact = PROVIDERS[progress.attempt.deployment.dialect].usage_of(progress.stream.usage)
        if exact is not None and not progress.stream.counting:
            return exact
        if passage is not None:
            return _PASSED
        text_bytes, text_events = progress.stream.text()
        seen = token_estimate.output_tokens(text_bytes, text_events)
        if exact is not None:
            # What went in was told at the beginning; what came out was not, for the stream broke off.
            return structs.replace(exact, output=max(exact.output, seen), exact=False)
        return _seen(decided, seen)
    if progress.usage is not None:
        return progress.usage
    if progress.answered:
        if passage is not None:
            return _PASSED
        return _seen(decided, token_estimate.output_tokens(progress.text_bytes, 0))
    raise AssertionError("an attempt that was dialled was answered, or nothing of it was seen")


def _unseen(decided: Decided, progress: Progress) -> bool:
    """Whether nothing is known of what a call took that was dialled: it is charged as held."""
    if progress.usage is not None or (progress.stream is not None and not decided.request.background):
        return False
    # Of what goes on in the background nobody is told what it takes but who asks the provider.
    return not progress.answered or decided.request.background


def hold_of_attempt(decided: Decided, number: int, attempt: Attempt, reservation: Reservation | None = None) -> Hold:
    """What is written down before `attempt` is dialled."""
    deployment, held = attempt.deployment, _tokens_held(decided, attempt)
    return Hold(
        id=f"{decided.request_id}.{number}",
        at_ms=int(decided.at * 1000),
        request_id=decided.request_id,
        key=decided.caller.key,
        team=decided.caller.team,
        session=decided.session.id,
        session_source=decided.session.source,
        route=decided.route.name,
        stream=int(decided.request.stream),
        task_type=decided.verdict.task_type,
        complexity=decided.verdict.complexity,
        tier=deployment.tier.name,
        provider=deployment.provider,
        deployment=deployment.name,
        model=deployment.model,
        attempts=number,
        reason=attempt.reason,
        input_tokens=held[0],
        output_tokens=held[1],
        priced=int(attempt.hold_nusd is not None),
        hold_nusd=attempt.hold_nusd or 0,
        hold_millijoules=attempt.hold_millijoules or 0,
        hold_micrograms=_carbon_held(deployment, attempt.hold_millijoules),
        world=decided.world.generation,
        org=decided.caller.org,
        user=decided.user,
        root=decided.session.root,
        window_ms=_window_ms(decided, reservation),
    )


def entry_of_attempt(decided: Decided, progress: Progress, *, final: bool, now: float) -> LedgerEntry:
    """The fact about an attempt that was dialled or tried; `now` is monotonic."""
    usage = usage_of_attempt(decided, progress)
    attempt = progress.attempt
    return _entry(
        decided,
        number=progress.number,
        final=final,
        deployment=attempt.deployment,
        usage=usage,
        charged=_charge(decided, progress, usage),
        hold_nusd=attempt.hold_nusd or 0,
        outcome=progress.outcome,
        status=progress.status,
        code=progress.code,
        reason=attempt.reason,
        first_byte=progress.first_byte,
        now=now,
        reservation=progress.reservation,
    )


def entry_of_refusal(decided: Decided, refusal: Refusal, *, status: int, attempts: int, now: float) -> LedgerEntry:
    """The fact about a request that was refused: nothing was dialled (after `attempts` failed ones)."""
    return _undialled(decided, attempts, now, "refused", status, refusal.code, refusal.code)


def entry_of_spare(decided: Decided, *, attempts: int, now: float) -> LedgerEntry:
    """The fact about a request that got the answer which was doubted: its attempts stand in entries of their own."""
    return _undialled(decided, attempts, now, "completed", 200, "not_escalated", "nobody above could answer")


def entry_of_end(decided: Decided, *, attempts: int, now: float) -> LedgerEntry:
    """The fact about a request that ended between two attempts, or while it waited for a greener hour: earlier attempts
    stand in entries of their own."""
    why = "ended between attempts" if attempts else "ended while it waited"
    return _undialled(decided, attempts, now, "cancelled", 499, "caller_gone", why)


def _undialled(
    decided: Decided, attempts: int, now: float, outcome: str, status: int, code: str, reason: str
) -> LedgerEntry:
    """The last entry of a request, beside those of its attempts."""
    return _entry(
        decided,
        number=attempts + 1,
        final=True,
        deployment=None,
        usage=NO_USAGE,
        hold_nusd=0,
        outcome=outcome,
        status=status,
        code=code,
        reason=reason,
        first_byte=None,
        now=now,
    )


def amounts_of(entry: LedgerEntry) -> Amounts:
    """What an entry books on budgets, in the order of Measure."""
    called = int(entry.usage_basis != "none")
    tokens = entry.input_tokens + entry.output_tokens
    return entry.charge_nusd, tokens, called, entry.energy_mj_mid, entry.carbon_ug_mid


def _tokens_held(decided: Decided, attempt: Attempt) -> tuple[int, int]:
    """The input and output tokens behind the hold: the worst case, or what such calls usually take where that was held."""
    return attempt.tokens_held or (decided.facts.input_tokens_max, attempt.output_tokens_max)


def _as_held(decided: Decided, attempt: Attempt) -> Usage:
    tokens = _tokens_held(decided, attempt)
    return Usage(input=tokens[0], output=tokens[1], exact=False)


def _carbon_held(deployment: Deployment, millijoules: int | None) -> int:
    if deployment.energy is None or not millijoules:
        return 0
    return carbon_micrograms_held(deployment.energy, deployment.intensity, millijoules)


def _seen(decided: Decided, output_tokens: int) -> Usage:
    return Usage(input=decided.facts.input_tokens, output=output_tokens, exact=False)


def _entry(
    decided: Decided,
    *,
    number: int,
    final: bool,
    deployment: Deployment | None,
    usage: Usage,
    charged: tuple[int, bool] = (0, True),
    hold_nusd: int,
    outcome: str,
    status: int,
    code: str,
    reason: str,
    first_byte: float | None,
    now: float,
    reservation: Reservation | None = None,
) -> LedgerEntry:
    """One straight table from what is known to the ledger's columns."""
    charge, priced = charged
    profile = deployment.profile if deployment else None
    took = _footprint(deployment, usage, pictures=decided.facts.has_images)
    reference = charge, took.energy_millijoules.mid, took.carbon_micrograms.mid
    if deployment is not None and decided.route.reference is not deployment:
        reference = _reference(decided.route.reference, usage, *reference)
    return LedgerEntry(
        id=f"{decided.request_id}.{number}",
        at_ms=int(decided.at * 1000),
        request_id=decided.request_id,
        final=int(final),
        key=decided.caller.key,
        team=decided.caller.team,
        session=decided.session.id,
        session_source=decided.session.source,
        route=decided.route.name,
        stream=int(decided.request.stream),
        task_type=decided.verdict.task_type,
        complexity=decided.verdict.complexity,
        tier=deployment.tier.name if deployment else "none",
        provider=deployment.provider if deployment else "none",
        deployment=deployment.name if deployment else "none",
        model=deployment.model if deployment else "none",
        attempts=number,
        outcome=outcome,
        status=status,
        code=code,
        reason=reason,
        usage_basis="none" if usage is NO_USAGE else "exact" if usage.exact else "estimated",
        input_tokens=usage.input,
        cached_input_tokens=usage.cached_input,
        cache_write_tokens=usage.cache_write,
        output_tokens=usage.output,
        reasoning_tokens=usage.reasoning,
        priced=int(priced),
        charge_nusd=charge,
        hold_nusd=hold_nusd,
        reference_nusd=reference[0],
        energy_mj_low=took.energy_millijoules.low,
        energy_mj_mid=took.energy_millijoules.mid,
        energy_mj_high=took.energy_millijoules.high,
        carbon_ug_low=took.carbon_micrograms.low,
        carbon_ug_mid=took.carbon_micrograms.mid,
        carbon_ug_high=took.carbon_micrograms.high,
        reference_energy_mj=reference[1],
        footprint_method=deployment.footprint_method if deployment and took is not UNKNOWN else UNKNOWN_METHOD,
        loop_step=decided.standing.step,
        first_byte_ms=round((first_byte - decided.started) * 1000) if first_byte is not None else 0,
        duration_ms=round((now - decided.started) * 1000),
        world=decided.world.generation,
        org=decided.caller.org,
        user=decided.user,
        root=decided.session.root,
        window_ms=_window_ms(decided, reservation),
        grid_zone=deployment.intensity.zone if deployment else "",
        grid_grams_per_kwh=deployment.intensity.grams_per_kwh if deployment else 0.0,
        embodied_ug=took.embodied_micrograms,
        market_carbon_ug=took.market_micrograms,
        reference_carbon_ug=reference[2],
        undeferred_carbon_ug=_undeferred(decided, deployment, took),
        concurrency=(profile.concurrency or 0.0) if profile else 0.0,
        energy_scale=profile.scale if profile else 1.0,
        deferred_ms=round(decided.waited.seconds * 1000) if decided.waited else 0,
    )


def _undeferred(decided: Decided, deployment: Deployment | None, took: Footprint) -> int:
    """What the same energy would have emitted had it not waited, in ug."""
    if decided.waited is None or deployment is None or deployment.energy is None:
        return took.carbon_micrograms.mid
    return carbon_micrograms_at(deployment.energy, decided.waited.grams_per_kwh, took.energy_millijoules.mid)


def _window_ms(decided: Decided, reservation: Reservation | None) -> int:
    """The time by which budgets' windows were told, in ms: a shared store's clock, or the request's own time."""
    return int((reservation.at if reservation is not None and reservation.at else decided.at) * 1000)


def _charge(decided: Decided, progress: Progress, usage: Usage) -> tuple[int, bool]:
    """(nUSD, whether a price is known). Nothing used costs nothing, priced or not; what is paid for by the piece is
    charged as the answer says, else as held."""
    deployment, passage = progress.attempt.deployment, decided.request.passage
    if usage is NO_USAGE:
        return 0, True
    if _unseen(decided, progress):
        hold = progress.attempt.hold_nusd
        return (0, False) if hold is None else (hold, True)
    if passage is not None and passage.pieces is not None and (deployment.sheet is None or not usage.exact):
        unit, most = passage.pieces
        price = deployment.unit_prices.get(unit)
        if price is not None:
            return price * (most if progress.pieces is None else progress.pieces), True
    if usage is _PASSED:
        # It said nothing of what it took: charged as held, where a price is known at all.
        hold = progress.attempt.hold_nusd
        return (0, False) if hold is None else (hold, True)
    if deployment.sheet is None:
        return 0, False
    return pricing.charge(deployment.sheet, usage), True


def _reference(reference: Deployment, usage: Usage, charge: int, energy: int, carbon: int) -> tuple[int, int, int]:
    """(nUSD, mJ, ug) of the same tokens on the route's most capable candidate; where that is unknown, what was really so."""
    if reference.sheet is not None and usage is not _PASSED:
        charge = pricing.charge(reference.sheet, usage)
    # Beside what nobody knows there is nothing to compare.
    if reference.energy is not None and energy:
        energy = energy_millijoules_mid(reference.energy, usage.input, usage.output, usage.cached_input)
        carbon = carbon_micrograms_at(reference.energy, reference.intensity.grams_per_kwh, energy)
    return charge, energy, carbon


def _footprint(deployment: Deployment | None, usage: Usage, *, pictures: bool) -> Footprint:
    if deployment is None or deployment.energy is None or usage in (NO_USAGE, _PASSED):
        return UNKNOWN
    return footprint(deployment.energy, deployment.intensity, usage, pictures=pictures)
