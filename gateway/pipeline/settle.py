"""Settle: usage -> charge -> footprint -> ledger entry. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

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
from ..values.usage import NO_USAGE, STANDARD_TERMS, PriceTerms, Usage
from .context import AttemptProgress, RequestContext


class _Charge(NamedTuple):
    """What an attempt costs.

    is_priced: whether a price is known
    unpriced: what of it has no price and is not in the charge, by name
    """

    nusd: int
    is_priced: bool
    unpriced: tuple[str, ...] = ()


_NO_CHARGE = _Charge(0, True)
# A pass-through response that reports no tokens.
_UNREPORTED_USAGE = Usage(input=0, output=0, exact=False)


def usage_of_attempt(context: RequestContext, progress: AttemptProgress) -> Usage:
    """Usage of an attempt: as reported, else estimated, else as held.

    An answer of which nothing was seen may have cost anything up to its hold, so it is charged as held.
    """
    passthrough = context.request.passthrough
    if not progress.dialed or progress.is_uncharged or (passthrough is not None and passthrough.is_free):
        return NO_USAGE
    if _usage_unknown(context, progress):
        return _usage_as_held(context, progress.attempt)
    meter, provider = progress.stream_meter, PROVIDERS[progress.attempt.deployment.dialect]
    if meter is not None:
        reported = provider.usage_of(meter.answer)
        if reported is not None and not meter.usage_is_final:
            # The output count is a placeholder.
            reported = structs.replace(reported, exact=False)
        if reported is not None and reported.exact and reported.output:
            # Without counting the text: that parses a stream that might have ended early.
            return reported
        extras: Mapping[str, Any] = provider.billed_extras_of(meter.answer) if reported is None else {}
        text_bytes, text_events = meter.text_totals()
    else:
        assert progress.usage is not None or progress.response_begun, "a dialed attempt has a response"
        reported, extras = progress.usage, progress.billed_extras
        text_bytes, text_events = progress.text_bytes, 0
    if reported is NO_USAGE:
        return reported
    if passthrough is not None:
        return reported or _UNREPORTED_USAGE
    if reported is not None and reported.exact and (reported.has_output or not text_bytes):
        return reported
    limit = progress.attempt.output_tokens_max
    output_tokens = token_estimate.output_tokens_within(limit, text_bytes, text_events)
    return _completed_usage(context, reported, extras, output_tokens)


def _usage_unknown(context: RequestContext, progress: AttemptProgress) -> bool:
    """Whether the usage of a dialed attempt is unknown: it is charged as held."""
    if progress.usage is not None:
        return False
    meter = progress.stream_meter
    if not context.request.is_background:
        return meter is None and not progress.response_begun
    # A background response continues at the provider without its reader: only its end reports the usage.
    return meter is None or not (meter.finish_reason_seen and (meter.usage is not None or meter.error is not None))


def _is_pending(context: RequestContext, progress: AttemptProgress) -> bool:
    """Whether a background response was started whose usage its provider reports later."""
    return context.request.is_background and progress.outcome == "completed" and _usage_unknown(context, progress)


def hold_of_attempt(
    context: RequestContext, number: int, attempt: Attempt, reservation: Reservation | None = None
) -> Hold:
    """The hold written to the ledger before an attempt is dialed."""
    deployment, (held_input_tokens, held_output_tokens) = attempt.deployment, _tokens_held(context, attempt)
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
        input_tokens=held_input_tokens,
        output_tokens=held_output_tokens,
        priced=int(attempt.hold_nusd is not None),
        hold_nusd=attempt.hold_nusd or 0,
        hold_millijoules=attempt.hold_millijoules or 0,
        hold_micrograms=_carbon_held_micrograms(deployment, attempt.hold_millijoules),
        config_hash=context.snapshot.generation,
        org=context.caller.org,
        user=context.user,
        root=context.session.root,
        window_ms=_window_ms(context, reservation),
    )


def entry_of_attempt(context: RequestContext, progress: AttemptProgress, *, final: bool, now: float) -> LedgerEntry:
    """The entry of an ended attempt; `now` is monotonic, seconds."""
    usage = usage_of_attempt(context, progress)
    attempt = progress.attempt
    entry = _entry(
        context,
        number=progress.number,
        final=final,
        deployment=attempt.deployment,
        usage=usage,
        charged=_charge(context, progress, usage, now),
        hold_nusd=attempt.hold_nusd or 0,
        outcome=progress.outcome,
        status=progress.status,
        code=progress.code or ("usage_pending" if _is_pending(context, progress) else ""),
        reason=attempt.reason,
        first_byte=progress.first_byte_monotonic,
        now=now,
        reservation=progress.reservation,
        object_ids=" ".join(progress.object_ids),
    )
    if progress.response_translator is None:
        return entry
    return structs.replace(
        entry,
        translation=f"{context.request.dialect} to {attempt.upstream_dialect}",
        answer_losses="; ".join(f"{loss.kind}: {loss.name}" for loss in progress.response_translator.losses()),
    )


def entry_of_refusal(
    context: RequestContext, refusal: Refusal, *, status: int, attempts: int, now: float
) -> LedgerEntry:
    """The final entry of a refused request, after `attempts` failed attempts."""
    return _entry_without_call(context, attempts, now, "refused", status, refusal.code, refusal.code)


def entry_of_unverified_answer(context: RequestContext, *, attempts: int, now: float) -> LedgerEntry:
    """The final entry of a request answered with the answer that failed verification."""
    return _entry_without_call(context, attempts, now, "completed", 200, "escalation_failed", "no higher tier answered")


def entry_of_cancellation(context: RequestContext, *, attempts: int, now: float) -> LedgerEntry:
    """The final entry of a request cancelled between attempts or while deferred."""
    reason = "ended between attempts" if attempts else "ended while deferred"
    return _entry_without_call(context, attempts, now, "cancelled", 499, "client_closed_request", reason)


def _entry_without_call(
    context: RequestContext, attempts: int, now: float, outcome: str, status: int, code: str, reason: str
) -> LedgerEntry:
    """The final entry of a request, in addition to those of its `attempts` attempts."""
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
    """The amounts that an entry books on budgets, in the order of Measure."""
    calls = int(entry.usage_basis != "none" and entry.outcome != "corrected")
    tokens = entry.input_tokens + entry.output_tokens
    return entry.charge_nusd, tokens, calls, entry.energy_mj_mid, entry.carbon_ug_mid


def _tokens_held(context: RequestContext, attempt: Attempt) -> tuple[int, int]:
    """Input and output tokens behind the hold: expected, else the worst case."""
    added_input, added_output = attempt.added_tokens
    return attempt.expected_tokens or (
        context.features.input_tokens_max + added_input,
        attempt.output_tokens_max + added_output,
    )


def _usage_as_held(context: RequestContext, attempt: Attempt) -> Usage:
    input_tokens, output_tokens = _tokens_held(context, attempt)
    return Usage(input=input_tokens, output=output_tokens, exact=False)


def _carbon_held_micrograms(deployment: Deployment, millijoules: int | None) -> int:
    if deployment.energy_models is None or not millijoules:
        return 0
    return carbon_hold_micrograms(deployment.energy_models, deployment.intensity, millijoules)


def _completed_usage(
    context: RequestContext, reported: Usage | None, extras: Mapping[str, Any], output_tokens: int
) -> Usage:
    """Usage whose missing counts are estimated: those that the provider did report are kept."""
    if reported is None:
        return Usage(input=context.features.input_tokens, output=output_tokens, exact=False, **extras)
    return structs.replace(
        reported,
        input=reported.input or context.features.input_tokens,
        output=max(reported.output, output_tokens),
        exact=False,
    )


def _entry(  # noqa: PLR0913 - the columns of an entry
    context: RequestContext,
    *,
    number: int,
    final: bool,
    deployment: Deployment | None,
    usage: Usage,
    charged: _Charge = _NO_CHARGE,
    hold_nusd: int,
    outcome: str,
    status: int,
    code: str,
    reason: str,
    first_byte: float | None,
    now: float,
    reservation: Reservation | None = None,
    object_ids: str = "",
) -> LedgerEntry:
    """Maps a request and an attempt to the columns of the ledger.

    `now` and `first_byte` are on the monotonic clock, seconds.
    """
    profile = deployment.energy_profile if deployment else None
    call_footprint = _footprint(deployment, usage, has_images=context.features.has_images)
    reference = charged.nusd, call_footprint.energy_millijoules.mid, call_footprint.carbon_micrograms.mid
    if deployment is not None and context.route.reference is not deployment:
        reference = _reference_figures(
            context.route.reference, usage, reference, terms=context.request.price_terms, at=_ended_at(context, now)
        )
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
        priced=int(charged.is_priced),
        charge_nusd=charged.nusd,
        hold_nusd=hold_nusd,
        reference_nusd=reference[0],
        energy_mj_low=call_footprint.energy_millijoules.low,
        energy_mj_mid=call_footprint.energy_millijoules.mid,
        energy_mj_high=call_footprint.energy_millijoules.high,
        carbon_ug_low=call_footprint.carbon_micrograms.low,
        carbon_ug_mid=call_footprint.carbon_micrograms.mid,
        carbon_ug_high=call_footprint.carbon_micrograms.high,
        reference_energy_mj=reference[1],
        footprint_method=deployment.footprint_method
        if deployment and call_footprint is not UNKNOWN_FOOTPRINT
        else UNKNOWN_FOOTPRINT_METHOD,
        loop_step=context.loop_state.step,
        first_byte_ms=round((first_byte - context.started_monotonic) * 1000) if first_byte is not None else 0,
        duration_ms=round((now - context.started_monotonic) * 1000),
        config_hash=context.snapshot.generation,
        org=context.caller.org,
        user=context.user,
        root=context.session.root,
        window_ms=_window_ms(context, reservation),
        grid_zone=deployment.intensity.zone if deployment else "",
        grid_grams_per_kwh=deployment.intensity.grams_per_kwh if deployment else 0.0,
        embodied_ug=call_footprint.embodied_micrograms,
        market_carbon_ug=call_footprint.market_micrograms,
        reference_carbon_ug=reference[2],
        undeferred_carbon_ug=_undeferred_carbon_micrograms(context, deployment, call_footprint),
        concurrency=(profile.concurrency or 0.0) if profile else 0.0,
        energy_scale=profile.meter_scale if profile else 1.0,
        object_ids=object_ids,
        deferred_ms=round(context.deferred_wait.seconds * 1000) if context.deferred_wait else 0,
        service_tier=usage.service_tier,
        reported_cost_nusd=usage.reported_cost_nusd or 0,
        unpriced_parts=",".join(charged.unpriced),
    )


def _undeferred_carbon_micrograms(
    context: RequestContext, deployment: Deployment | None, call_footprint: Footprint
) -> int:
    """Emissions of the same energy had the request not been deferred, in ug."""
    if context.deferred_wait is None or deployment is None or deployment.energy_models is None:
        return call_footprint.carbon_micrograms.mid
    return carbon_micrograms_at(
        deployment.energy_models, context.deferred_wait.undeferred_grams_per_kwh, call_footprint.energy_millijoules.mid
    )


def _window_ms(context: RequestContext, reservation: Reservation | None) -> int:
    """The time that decides budget windows, ms since the epoch.

    By a shared store's clock, else the start of the request.
    """
    return int(
        (reservation.reserved_at if reservation is not None and reservation.reserved_at else context.started_at) * 1000
    )


def _charge(context: RequestContext, progress: AttemptProgress, usage: Usage, now: float) -> _Charge:
    """Charge of an attempt that ended at `now`, monotonic.

    No usage costs nothing; units other than tokens are charged as reported, else as held.
    """
    deployment, passthrough = progress.attempt.deployment, context.request.passthrough
    if usage is NO_USAGE:
        return _NO_CHARGE
    if _usage_unknown(context, progress):
        return _charge_as_held(progress)
    if (
        passthrough is not None
        and passthrough.billed_units_max is not None
        and (deployment.price_sheet is None or not usage.exact)
    ):
        unit, count = progress.billed_units or passthrough.billed_units_max
        price = pricing.unit_nusd(deployment.unit_prices, unit)
        if price is not None:
            return _Charge(price * count, True)
    if usage is _UNREPORTED_USAGE:
        return _charge_as_held(progress)
    if deployment.price_sheet is None:
        return _Charge(0, False)
    return _Charge(
        pricing.charge(deployment.price_sheet, usage, terms=progress.attempt.price_terms, at=_ended_at(context, now)),
        True,
        pricing.unpriced_parts(deployment.price_sheet, usage),
    )


def _charge_as_held(progress: AttemptProgress) -> _Charge:
    """The hold, where a price is known."""
    hold = progress.attempt.hold_nusd
    return _Charge(0, False) if hold is None else _Charge(hold, True)


def _ended_at(context: RequestContext, now: float) -> float:
    """The time `now` (monotonic) in seconds since the epoch."""
    return context.started_at + now - context.started_monotonic


def _reference_figures(
    reference: Deployment, usage: Usage, actual: tuple[int, int, int], *, terms: PriceTerms, at: float
) -> tuple[int, int, int]:
    """(nUSD, mJ, ug) of the same tokens on the route's reference deployment; the actual figures where unknown."""
    charge, energy, carbon = actual
    if reference.price_sheet is not None and usage is not _UNREPORTED_USAGE:
        charge = pricing.charge(reference.price_sheet, usage, terms=terms, at=at)
    # Unknown energy has nothing to compare with.
    if reference.energy_models is not None and energy:
        energy = energy_millijoules_mid(reference.energy_models, usage.input, usage.output, usage.cached_input)
        carbon = carbon_micrograms_at(reference.energy_models, reference.intensity.grams_per_kwh, energy)
    return charge, energy, carbon


def _footprint(deployment: Deployment | None, usage: Usage, *, has_images: bool) -> Footprint:
    if deployment is None or deployment.energy_models is None or usage in (NO_USAGE, _UNREPORTED_USAGE):
        return UNKNOWN_FOOTPRINT
    return footprint(deployment.energy_models, deployment.intensity, usage, has_images=has_images)


def amounts_of_usage(deployment: Deployment, reference: Deployment, usage: Usage, *, at: float) -> dict[str, int]:
    """The amounts of an entry, by AMOUNT_COLUMNS, of a call with this usage.

    at: when it ended, seconds since the epoch
    """
    charge = pricing.charge(deployment.price_sheet, usage, at=at) if deployment.price_sheet is not None else 0
    call_footprint = _footprint(deployment, usage, has_images=False)
    energy, carbon = call_footprint.energy_millijoules, call_footprint.carbon_micrograms
    figures = charge, energy.mid, carbon.mid
    if reference is not deployment:
        figures = _reference_figures(reference, usage, figures, terms=STANDARD_TERMS, at=at)
    return {
        "input_tokens": usage.input,
        "cached_input_tokens": usage.cached_input,
        "cache_write_tokens": usage.cache_write,
        "output_tokens": usage.output,
        "reasoning_tokens": usage.reasoning,
        "charge_nusd": charge,
        "reported_cost_nusd": usage.reported_cost_nusd or 0,
        "reference_nusd": figures[0],
        "energy_mj_low": energy.low,
        "energy_mj_mid": energy.mid,
        "energy_mj_high": energy.high,
        "carbon_ug_low": carbon.low,
        "carbon_ug_mid": carbon.mid,
        "carbon_ug_high": carbon.high,
        "reference_energy_mj": figures[1],
        "embodied_ug": call_footprint.embodied_micrograms,
        "market_carbon_ug": call_footprint.market_micrograms,
        "reference_carbon_ug": figures[2],
        "undeferred_carbon_ug": carbon.mid,
    }
