"""What one call took: usage -> charge -> footprint -> ledger entry. Pure; used by the exchange when a call ends."""

from msgspec import structs

from ..accounting import pricing, token_estimate
from ..carbon.footprint import (
    UNKNOWN_FOOTPRINT,
    carbon_hold_micrograms,
    carbon_micrograms_at,
    energy_millijoules_mid,
    footprint,
)
from ..providers import PROVIDERS
from ..values.budget import Amounts, Reservation
from ..values.catalog import UNKNOWN_FOOTPRINT_METHOD, Deployment, Footprint
from ..values.ledger_entry import Hold, LedgerEntry
from ..values.plan import Attempt, Refusal
from ..values.usage import NO_USAGE, Usage
from .context import AttemptProgress, RequestContext

# Something passed through that said nothing of tokens.
_UNREPORTED_USAGE = Usage(input=0, output=0, exact=False)


def usage_of_attempt(context: RequestContext, progress: AttemptProgress) -> Usage:
    """What the attempt took: the provider's count, else what was seen of the answer, else the worst case.

    An answer of which nothing was seen may have cost anything up to its hold; it is charged as that.
    """
    passthrough = context.request.passthrough
    if not progress.dialled or progress.got_error_status or (passthrough is not None and passthrough.is_free):
        return NO_USAGE
    if _usage_unknown(context, progress):
        return _usage_as_held(context, progress.attempt)
    if progress.stream_meter is not None:
        exact = PROVIDERS[progress.attempt.deployment.dialect].usage_of(progress.stream_meter.usage)
        if exact is not None and not progress.stream_meter.usage_incomplete:
            return exact
        if passthrough is not None:
            return _UNREPORTED_USAGE
        text_bytes, text_events = progress.stream_meter.text_totals()
        seen = token_estimate.output_tokens(text_bytes, text_events)
        if exact is not None:
            # What went in was told at the beginning; what came out was not, for the stream broke off.
            return structs.replace(exact, output=max(exact.output, seen), exact=False)
        return _estimated_usage(context, seen)
    if progress.usage is not None:
        return progress.usage
    if progress.response_begun:
        if passthrough is not None:
            return _UNREPORTED_USAGE
        return _estimated_usage(context, token_estimate.output_tokens(progress.text_bytes, 0))
    raise AssertionError("an attempt that was dialled was answered, or nothing of it was seen")


def _usage_unknown(context: RequestContext, progress: AttemptProgress) -> bool:
    """Whether nothing is known of what a call took that was dialled: it is charged as held."""
    if progress.usage is not None or (progress.stream_meter is not None and not context.request.is_background):
        return False
    # Of what goes on in the background nobody is told what it takes but who asks the provider.
    return not progress.response_begun or context.request.is_background


def hold_of_attempt(
    context: RequestContext, number: int, attempt: Attempt, reservation: Reservation | None = None
) -> Hold:
    """What is written down before `attempt` is dialled."""
    deployment, held = attempt.deployment, _tokens_held(context, attempt)
    return Hold(
        id=f"{context.request_id}.{number}",
        at_ms=int(context.started_at * 1000),
        request_id=context.request_id,
        key=context.caller.key,
        team=context.caller.team,
        session=context.session.id,
        session_source=context.session.source,
        route=context.route.name,
        stream=int(context.request.stream),
        task_type=context.classification.task_type,
        complexity=context.classification.complexity,
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
        hold_micrograms=_carbon_held_micrograms(deployment, attempt.hold_millijoules),
        world=context.snapshot.generation,
        org=context.caller.org,
        user=context.user,
        root=context.session.root,
        window_ms=_window_ms(context, reservation),
    )


def entry_of_attempt(context: RequestContext, progress: AttemptProgress, *, final: bool, now: float) -> LedgerEntry:
    """The fact about an attempt that was dialled or tried; `now` is monotonic."""
    usage = usage_of_attempt(context, progress)
    attempt = progress.attempt
    return _entry(
        context,
        number=progress.number,
        final=final,
        deployment=attempt.deployment,
        usage=usage,
        charged=_charge(context, progress, usage),
        hold_nusd=attempt.hold_nusd or 0,
        outcome=progress.outcome,
        status=progress.status,
        code=progress.code,
        reason=attempt.reason,
        first_byte=progress.first_byte_monotonic,
        now=now,
        reservation=progress.reservation,
    )


def entry_of_refusal(
    context: RequestContext, refusal: Refusal, *, status: int, attempts: int, now: float
) -> LedgerEntry:
    """The fact about a request that was refused: nothing was dialled (after `attempts` failed ones)."""
    return _entry_without_call(context, attempts, now, "refused", status, refusal.code, refusal.code)


def entry_of_fallback(context: RequestContext, *, attempts: int, now: float) -> LedgerEntry:
    """The fact about a request that got the answer which was doubted: its attempts stand in entries of their own."""
    return _entry_without_call(context, attempts, now, "completed", 200, "not_escalated", "nobody above could answer")


def entry_of_cancellation(context: RequestContext, *, attempts: int, now: float) -> LedgerEntry:
    """The fact about a request that ended between two attempts, or while it waited for a greener hour: earlier attempts
    stand in entries of their own."""
    why = "ended between attempts" if attempts else "ended while it waited"
    return _entry_without_call(context, attempts, now, "cancelled", 499, "caller_gone", why)


def _entry_without_call(
    context: RequestContext, attempts: int, now: float, outcome: str, status: int, code: str, reason: str
) -> LedgerEntry:
    """The last entry of a request, beside those of its attempts."""
    return _entry(
        context,
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


def _tokens_held(context: RequestContext, attempt: Attempt) -> tuple[int, int]:
    """The input and output tokens behind the hold: the worst case, or what such calls usually take where that was held."""
    return attempt.expected_tokens or (context.features.input_tokens_max, attempt.output_tokens_max)


def _usage_as_held(context: RequestContext, attempt: Attempt) -> Usage:
    tokens = _tokens_held(context, attempt)
    return Usage(input=tokens[0], output=tokens[1], exact=False)


def _carbon_held_micrograms(deployment: Deployment, millijoules: int | None) -> int:
    if deployment.energy_models is None or not millijoules:
        return 0
    return carbon_hold_micrograms(deployment.energy_models, deployment.intensity, millijoules)


def _estimated_usage(context: RequestContext, output_tokens: int) -> Usage:
    return Usage(input=context.features.input_tokens, output=output_tokens, exact=False)


def _entry(
    context: RequestContext,
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
    profile = deployment.energy_profile if deployment else None
    took = _footprint(deployment, usage, pictures=context.features.has_images)
    reference = charge, took.energy_millijoules.mid, took.carbon_micrograms.mid
    if deployment is not None and context.route.reference is not deployment:
        reference = _reference_figures(context.route.reference, usage, *reference)
    return LedgerEntry(
        id=f"{context.request_id}.{number}",
        at_ms=int(context.started_at * 1000),
        request_id=context.request_id,
        final=int(final),
        key=context.caller.key,
        team=context.caller.team,
        session=context.session.id,
        session_source=context.session.source,
        route=context.route.name,
        stream=int(context.request.stream),
        task_type=context.classification.task_type,
        complexity=context.classification.complexity,
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
        footprint_method=deployment.footprint_method
        if deployment and took is not UNKNOWN_FOOTPRINT
        else UNKNOWN_FOOTPRINT_METHOD,
        loop_step=context.loop_state.step,
        first_byte_ms=round((first_byte - context.started_monotonic) * 1000) if first_byte is not None else 0,
        duration_ms=round((now - context.started_monotonic) * 1000),
        world=context.snapshot.generation,
        org=context.caller.org,
        user=context.user,
        root=context.session.root,
        window_ms=_window_ms(context, reservation),
        grid_zone=deployment.intensity.zone if deployment else "",
        grid_grams_per_kwh=deployment.intensity.grams_per_kwh if deployment else 0.0,
        embodied_ug=took.embodied_micrograms,
        market_carbon_ug=took.market_micrograms,
        reference_carbon_ug=reference[2],
        undeferred_carbon_ug=_undeferred_carbon_micrograms(context, deployment, took),
        concurrency=(profile.concurrency or 0.0) if profile else 0.0,
        energy_scale=profile.meter_scale if profile else 1.0,
        deferred_ms=round(context.deferred_wait.seconds * 1000) if context.deferred_wait else 0,
    )


def _undeferred_carbon_micrograms(context: RequestContext, deployment: Deployment | None, took: Footprint) -> int:
    """What the same energy would have emitted had it not waited, in ug."""
    if context.deferred_wait is None or deployment is None or deployment.energy_models is None:
        return took.carbon_micrograms.mid
    return carbon_micrograms_at(
        deployment.energy_models, context.deferred_wait.undeferred_grams_per_kwh, took.energy_millijoules.mid
    )


def _window_ms(context: RequestContext, reservation: Reservation | None) -> int:
    """The time by which budgets' windows were told, in ms: a shared store's clock, or the request's own time."""
    return int(
        (reservation.reserved_at if reservation is not None and reservation.reserved_at else context.started_at) * 1000
    )


def _charge(context: RequestContext, progress: AttemptProgress, usage: Usage) -> tuple[int, bool]:
    """(nUSD, whether a price is known). Nothing used costs nothing, priced or not; what is paid for by the piece is
    charged as the answer says, else as held."""
    deployment, passthrough = progress.attempt.deployment, context.request.passthrough
    if usage is NO_USAGE:
        return 0, True
    if _usage_unknown(context, progress):
        hold = progress.attempt.hold_nusd
        return (0, False) if hold is None else (hold, True)
    if (
        passthrough is not None
        and passthrough.pieces_max is not None
        and (deployment.price_sheet is None or not usage.exact)
    ):
        unit, most = passthrough.pieces_max
        price = deployment.unit_prices.get(unit)
        if price is not None:
            return price * (most if progress.billed_units is None else progress.billed_units), True
    if usage is _UNREPORTED_USAGE:
        # It said nothing of what it took: charged as held, where a price is known at all.
        hold = progress.attempt.hold_nusd
        return (0, False) if hold is None else (hold, True)
    if deployment.price_sheet is None:
        return 0, False
    return pricing.charge(deployment.price_sheet, usage), True


def _reference_figures(
    reference: Deployment, usage: Usage, charge: int, energy: int, carbon: int
) -> tuple[int, int, int]:
    """(nUSD, mJ, ug) of the same tokens on the route's most capable candidate; where that is unknown, what was really so."""
    if reference.price_sheet is not None and usage is not _UNREPORTED_USAGE:
        charge = pricing.charge(reference.price_sheet, usage)
    # Beside what nobody knows there is nothing to compare.
    if reference.energy_models is not None and energy:
        energy = energy_millijoules_mid(reference.energy_models, usage.input, usage.output, usage.cached_input)
        carbon = carbon_micrograms_at(reference.energy_models, reference.intensity.grams_per_kwh, energy)
    return charge, energy, carbon


def _footprint(deployment: Deployment | None, usage: Usage, *, pictures: bool) -> Footprint:
    if deployment is None or deployment.energy_models is None or usage in (NO_USAGE, _UNREPORTED_USAGE):
        return UNKNOWN_FOOTPRINT
    return footprint(deployment.energy_models, deployment.intensity, usage, pictures=pictures)
