"""What a caller is told beside the answer: the x-penstock-* headers. Pure."""

from .crossing.carried import Carried
from .settlement import Decided
from .values.answer import Answer
from .values.entry import LedgerEntry
from .values.plan import Attempt
from .values.units import MICROGRAMS_PER_GRAM, MILLIJOULES_PER_WH, nusd_to_usd


def of_case(decided: Decided) -> dict[str, str]:
    """Headers that every answer carries once its request was understood."""
    headers = {
        "x-penstock-request-id": decided.request_id,
        "x-penstock-session": decided.session.id,
        "x-penstock-task-type": decided.verdict.task_type,
        "x-penstock-complexity": f"{decided.verdict.complexity:.3f}",
        "x-penstock-config": decided.world.generation,
    }
    if decided.loop_step:
        headers["x-penstock-loop"] = f"{decided.loop_step}; score={decided.session.loop_score:g}"
    return headers


def of_attempt(decided: Decided, attempt: Attempt) -> dict[str, str]:
    """What was decided, and why."""
    headers = of_case(decided)
    headers["x-penstock-deployment"] = attempt.deployment.name
    headers["x-penstock-tier"] = attempt.deployment.tier.name
    headers["x-penstock-reason"] = f"{attempt.reason}; {decided.verdict.reason}"
    if attempt.speech != decided.request.dialect:
        headers["x-penstock-crossed"] = f"{decided.request.dialect} to {attempt.speech}"
        carried = decided.carrier.to(attempt.speech, extended=attempt.deployment.dialect == "litellm")
        if isinstance(carried, Carried) and carried.dropped:
            headers["x-penstock-dropped"] = "; ".join(carried.dropped)
    return headers


def told(answer: Answer, decided: Decided, attempt: Attempt, entry: LedgerEntry) -> Answer:
    """The answer with its story; a whole one also says what it took (a stream's headers left before anybody knew)."""
    if answer.streamed:
        return answer
    headers = {**answer.headers, **of_attempt(decided, attempt)}
    if entry.usage_basis != "none":
        headers["x-penstock-cost-usd"] = nusd_to_usd(entry.charge_nusd) if entry.priced else "unpriced"
        headers["x-penstock-energy-wh"] = "%.6g" % (entry.energy_mj_mid / MILLIJOULES_PER_WH)
        headers["x-penstock-carbon-g"] = "%.6g" % (entry.carbon_ug_mid / MICROGRAMS_PER_GRAM)
    return Answer(status=answer.status, headers=headers, body=answer.body)
