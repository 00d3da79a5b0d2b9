"""The x-penstock-* response headers. Pure."""

from collections.abc import Iterable

from ..sessions.ladder import LoopState
from ..values.base import Value
from ..values.budget import MEASURE_UNITS, Amounts, Reservation
from ..values.caller_response import CallerResponse
from ..values.catalog import UNKNOWN_FOOTPRINT_METHOD
from ..values.ledger_entry import LedgerEntry
from ..values.units import MICROGRAMS_PER_GRAM, MILLIJOULES_PER_WH, nusd_to_usd, plain_decimal
from .context import AttemptProgress, RequestContext, translated_request_of
from .settle import amounts_of

# Budgets listed in one header, in the order of the configuration.
_BUDGETS_MAX = 8


def context_headers(context: RequestContext) -> dict[str, str]:
    """Headers of every response from classification on."""
    headers = {
        "x-penstock-request-id": context.request_id,
        "x-penstock-session": context.session.id,
        "x-penstock-task-type": context.classification.task_type,
        "x-penstock-complexity": f"{context.classification.complexity:.3f}",
        "x-penstock-config": context.snapshot.generation,
    }
    loop_state = context.loop_state
    if loop_state.step:
        headers["x-penstock-loop"] = loop_header(loop_state)
    return headers


def loop_header(loop_state: LoopState) -> str:
    """The ladder step: `warn; score=3.4; tool=bash; count=4; since=turn 12`."""
    conversation = loop_state.repeating
    text = f"{loop_state.step}; score={loop_state.score:.2f}".rstrip("0").rstrip(".")
    if (
        conversation.repeated_tool
        and conversation.repeated_tool.isascii()
        and conversation.repeated_tool.isprintable()
        and ";" not in conversation.repeated_tool
    ):
        text += f"; tool={conversation.repeated_tool}; count={conversation.repeat_count}"
    text += f"; since=turn {conversation.since_turn}"
    return text if loop_state.is_enforced or loop_state.step == "warn" else f"{text}; shadow"


def attempt_headers(context: RequestContext, progress: AttemptProgress, spent: Amounts | None = None) -> dict[str, str]:
    """Headers of an attempt: deployment, tier, reason, budgets, translation.

    Budgets count the attempt with its hold, or with what it `spent`.
    """
    attempt = progress.attempt
    headers = context_headers(context)
    if progress.reservation is not None and progress.reservation.balances:
        headers["x-penstock-budget"] = budget_header(progress.reservation, context.started_at, spent)
    if attempt.output_limit is not None:
        headers["x-penstock-max-output-tokens"] = str(attempt.output_limit)
    headers["x-penstock-deployment"] = attempt.deployment.name
    headers["x-penstock-tier"] = attempt.deployment.tier.name
    headers["x-penstock-reason"] = f"{attempt.reason}; {context.classification.reason}"
    translated = translated_request_of(context, progress)
    if translated is None:
        dropped = list(attempt.stripped_fields)
    else:
        headers["x-penstock-translated"] = f"{context.request.dialect} to {attempt.upstream_dialect}"
        dropped = [*translated.dropped_fields, *progress.dropped_fields]
        if progress.response_translator is not None:
            dropped += [f"answer: {loss.name}" for loss in progress.response_translator.losses()]
    if dropped:
        headers["x-penstock-dropped"] = "; ".join(dropped)
    return headers


class UnverifiedAnswer(Value, frozen=True, kw_only=True):
    """An answer that failed verification, kept in case no higher tier answers."""

    answer: CallerResponse
    deployment: str
    failed_checks: tuple[str, ...]


def with_escalation_header(answer: CallerResponse, unverified: UnverifiedAnswer) -> CallerResponse:
    """The higher tier's answer, with a header that describes the first one."""
    cost = unverified.answer.headers.get("x-penstock-cost-usd", "unpriced")
    escalation = f"from {unverified.deployment}; {', '.join(unverified.failed_checks)}; {cost} USD"
    return CallerResponse(
        status=answer.status,
        headers={**answer.headers, "x-penstock-escalated": escalation},
        body=answer.body,
        already_sent=answer.already_sent,
    )


def budget_header(reservation: Reservation, now: float, spent: Amounts | None = None) -> str:
    """What remains of each budget of a call, comma-separated.

    Each as `"team";unit=USD;limit=10;remaining=7.5;reset=3600`.
    The call counts with its hold, or with what it `spent`; `reset` is in seconds.
    """
    parts = []
    for line, amount, (spent_before, held, granted) in zip(
        reservation.lines, reservation.amounts, reservation.balances, strict=False
    ):
        budget = line.budget
        measure, label, resets_at = budget.measure, budget.header_label, line.resets_at
        unit, scale = MEASURE_UNITS[measure]
        unspent = line.ceiling + granted - spent_before - held
        if spent is not None:
            unspent += amount - (spent[measure] or 0)
        if granted or line.ceiling != budget.refuse_above:
            label = f'"{budget.name}";unit={unit};limit={plain_decimal((line.ceiling + granted) / scale)}'
        remaining = unspent / scale if unspent > 0 else 0
        if resets_at is None:
            parts.append(f"{label};remaining={remaining:.12g}")
        else:
            parts.append(f"{label};remaining={remaining:.12g};reset={max(0, int(resets_at - now))}")
    return ", ".join(parts[:_BUDGETS_MAX])


def footprint_header(entry: LedgerEntry) -> str:
    """Footprint of a call, low-mid-high.

    `wh=0.01-0.03-0.09; g=...; grid=FRA 56 g/kWh; method=...`
    """
    if entry.footprint_method == UNKNOWN_FOOTPRINT_METHOD:
        return f"method={UNKNOWN_FOOTPRINT_METHOD}"
    wh = [
        millijoules / MILLIJOULES_PER_WH
        for millijoules in (entry.energy_mj_low, entry.energy_mj_mid, entry.energy_mj_high)
    ]
    grams = [
        micrograms / MICROGRAMS_PER_GRAM
        for micrograms in (entry.carbon_ug_low, entry.carbon_ug_mid, entry.carbon_ug_high)
    ]
    text = (
        f"wh={_bounds_text(wh)}; g={_bounds_text(grams)}; grid={entry.grid_zone} {entry.grid_grams_per_kwh:.4g} g/kWh"
    )
    text += f"; method={entry.footprint_method}"
    return f"{text}; deferred={entry.deferred_ms / 1000:.0f} s" if entry.deferred_ms else text


def _bounds_text(bounds: Iterable[float]) -> str:
    return "-".join([f"{bound:.4g}" for bound in bounds])


def with_attempt_headers(
    answer: CallerResponse, context: RequestContext, progress: AttemptProgress, entry: LedgerEntry
) -> CallerResponse:
    """The answer with the headers of its attempt, cost and footprint.

    An answer that was already sent (a stream) is unchanged.
    """
    if answer.already_sent:
        return answer
    headers = {**answer.headers, **attempt_headers(context, progress, amounts_of(entry))}
    if entry.usage_basis != "none":
        headers["x-penstock-cost-usd"] = nusd_to_usd(entry.charge_nusd) if entry.priced else "unpriced"
        headers["x-penstock-energy-wh"] = "%.6g" % (entry.energy_mj_mid / MILLIJOULES_PER_WH)
        headers["x-penstock-carbon-g"] = "%.6g" % (entry.carbon_ug_mid / MICROGRAMS_PER_GRAM)
        headers["x-penstock-footprint"] = footprint_header(entry)
    return CallerResponse(status=answer.status, headers=headers, body=answer.body)
