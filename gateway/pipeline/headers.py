"""What a caller is told beside the answer: the x-penstock-* headers. Pure."""

from collections.abc import Iterable

from ..dialects.translation.translated import Carried
from ..sessions.ladder import Standing
from ..values.base import Value
from ..values.budget import UNITS, Amounts, Reservation
from ..values.caller_response import Answer
from ..values.catalog import UNKNOWN_METHOD
from ..values.ledger_entry import LedgerEntry
from ..values.units import MICROGRAMS_PER_GRAM, MILLIJOULES_PER_WH, nusd_to_usd, shortest
from .context import Decided, Progress
from .settle import amounts_of

# Budgets told of in one header, in the order of the file.
_BUDGETS_TOLD = 8


def of_case(decided: Decided) -> dict[str, str]:
    """Headers that every answer carries once its request was understood."""
    headers = {
        "x-penstock-request-id": decided.request_id,
        "x-penstock-session": decided.session.id,
        "x-penstock-task-type": decided.verdict.task_type,
        "x-penstock-complexity": f"{decided.verdict.complexity:.3f}",
        "x-penstock-config": decided.world.generation,
    }
    standing = decided.standing
    if standing.step:
        headers["x-penstock-loop"] = loop_of(standing)
    return headers


def loop_of(standing: Standing) -> str:
    """Where the session stands on the ladder: `warn; score=3.4; tool=bash; count=4; since=turn 12`."""
    talk = standing.culprit
    told = f"{standing.step}; score={standing.score:.2f}".rstrip("0").rstrip(".")
    if talk.tool and talk.tool.isascii() and talk.tool.isprintable() and ";" not in talk.tool:
        told += f"; tool={talk.tool}; count={talk.count}"
    told += f"; since=turn {talk.since_turn}"
    return told if standing.acts or standing.step == "warn" else f"{told}; shadow"


def of_attempt(decided: Decided, progress: Progress, spent: Amounts | None = None) -> dict[str, str]:
    """What was decided, and why; and how the budgets stand with the hold for it."""
    attempt = progress.attempt
    headers = of_case(decided)
    if progress.reservation is not None and progress.reservation.standings:
        headers["x-penstock-budget"] = budgets_of(progress.reservation, decided.at, spent)
    if attempt.output_limit is not None:
        headers["x-penstock-max-output-tokens"] = str(attempt.output_limit)
    headers["x-penstock-deployment"] = attempt.deployment.name
    headers["x-penstock-tier"] = attempt.deployment.tier.name
    headers["x-penstock-reason"] = f"{attempt.reason}; {decided.verdict.reason}"
    if attempt.speech != decided.request.dialect:
        headers["x-penstock-crossed"] = f"{decided.request.dialect} to {attempt.speech}"
        carried = decided.carrier.to(attempt.speech, extended=attempt.deployment.dialect == "litellm")
        if isinstance(carried, Carried) and carried.dropped:
            headers["x-penstock-dropped"] = "; ".join(carried.dropped)
    return headers


class Spare(Value, frozen=True, kw_only=True):
    """An answer that was doubted: kept until a better one has come."""

    answer: Answer
    deployment: str
    doubts: tuple[str, ...]


def escalated(answer: Answer, spare: Spare) -> Answer:
    """The better answer, with what the doubted one was and took."""
    cost = spare.answer.headers.get("x-penstock-cost-usd", "unpriced")
    told = f"from {spare.deployment}; {', '.join(spare.doubts)}; {cost} USD"
    return Answer(
        status=answer.status,
        headers={**answer.headers, "x-penstock-escalated": told},
        body=answer.body,
        streamed=answer.streamed,
    )


def budgets_of(reservation: Reservation, now: float, spent: Amounts | None = None) -> str:
    """What is left of each budget that the call was held on, separated by commas:
    `"team";unit=USD;limit=10;remaining=7.5;reset=3600`. With the call at its hold, or at what it `spent`."""
    parts = []
    for line, amount, (used, held, extra) in zip(
        reservation.lines, reservation.amounts, reservation.standings, strict=False
    ):
        budget = line.budget
        measure, label, resets_at = budget.measure, budget.label, line.resets_at
        unit, scale = UNITS[measure]
        left = line.ceiling + extra - used - held
        if spent is not None:
            left += amount - (spent[measure] or 0)
        if extra or line.ceiling != budget.refuse:
            label = f'"{budget.name}";unit={unit};limit={shortest((line.ceiling + extra) / scale)}'
        remaining = left / scale if left > 0 else 0
        if resets_at is None:
            parts.append(f"{label};remaining={remaining:.12g}")
        else:
            parts.append(f"{label};remaining={remaining:.12g};reset={max(0, int(resets_at - now))}")
    return ", ".join(parts[:_BUDGETS_TOLD])


def receipt_of(entry: LedgerEntry) -> str:
    """Bounds, grid and method of one call's figures: `wh=0.01-0.03-0.09; g=...; grid=FRA 56 g/kWh; method=...`."""
    if entry.footprint_method == UNKNOWN_METHOD:
        return f"method={UNKNOWN_METHOD}"
    wh = [one / MILLIJOULES_PER_WH for one in (entry.energy_mj_low, entry.energy_mj_mid, entry.energy_mj_high)]
    grams = [one / MICROGRAMS_PER_GRAM for one in (entry.carbon_ug_low, entry.carbon_ug_mid, entry.carbon_ug_high)]
    told = f"wh={_dashed(wh)}; g={_dashed(grams)}; grid={entry.grid_zone} {entry.grid_grams_per_kwh:.4g} g/kWh"
    told += f"; method={entry.footprint_method}"
    return f"{told}; deferred={entry.deferred_ms / 1000:.0f} s" if entry.deferred_ms else told


def _dashed(bounds: Iterable[float]) -> str:
    return "-".join([f"{one:.4g}" for one in bounds])


def told(answer: Answer, decided: Decided, progress: Progress, entry: LedgerEntry) -> Answer:
    """The answer with its story; a whole one also says what it took (a stream's headers left before anybody knew)."""
    if answer.streamed:
        return answer
    headers = {**answer.headers, **of_attempt(decided, progress, amounts_of(entry))}
    if entry.usage_basis != "none":
        headers["x-penstock-cost-usd"] = nusd_to_usd(entry.charge_nusd) if entry.priced else "unpriced"
        headers["x-penstock-energy-wh"] = "%.6g" % (entry.energy_mj_mid / MILLIJOULES_PER_WH)
        headers["x-penstock-carbon-g"] = "%.6g" % (entry.carbon_ug_mid / MICROGRAMS_PER_GRAM)
        headers["x-penstock-footprint"] = receipt_of(entry)
    return Answer(status=answer.status, headers=headers, body=answer.body)
