"""What each attempt would hold on each budget: the worst case, or what such calls usually take where that is allowed.

The books only compare integers; all that is known of prices, energy and lengths is turned into amounts here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import structs

from ..accounting import pricing
from ..carbon.footprint import carbon_hold_micrograms, energy_millijoules_mid
from ..values.base import Value
from ..values.budget import Amounts, ApplicableLines, BudgetLine, HoldOption, Measure, Shrinkage
from ..values.catalog import Deployment
from ..values.plan import Attempt, RequestFeatures
from ..values.request import Request
from ..values.units import divide_ceil

# Output limits are never lowered below this: the Responses API takes no less than 16.
_OUTPUT_TOKENS_MIN = 16
# Dialects whose requests have an output limit that we may lower.
_OUTPUT_LIMIT_DIALECTS = ("chat", "responses", "messages", "completions")


class UsualTokens(Value, frozen=True, kw_only=True):
    """What such a call usually takes, in tokens: input, the part of it that will be read from a cache, and output
    (all choices together)."""

    input: int
    cached_input: int
    output: int


class HoldInputs(Value, frozen=True, kw_only=True):
    """What offers are made from: the request, what it looks like, and the lines that it meets at each deployment.

    `usual` says what such a call usually takes at a deployment. `waiting`: a queue stage may still make it wait.
    """

    request: Request
    facts: RequestFeatures
    budget_lines_at: Callable[[Deployment], ApplicableLines]
    usual_tokens: Callable[[Deployment], UsualTokens]
    may_queue: bool = False


def cheaper_places(attempts: Sequence[Attempt], place: int) -> list[int]:
    """`place`, then the places after it that take less: what a budget that is too tight may fall back to."""
    first = attempts[place]
    return [place, *(at for at in range(place + 1, len(attempts)) if _is_cheaper(attempts[at], first))]


def offers(attempts: Sequence[Attempt], scene: HoldInputs) -> Iterator[HoldOption]:
    """One offer for each attempt, in their order; each is made when it is asked for."""
    for attempt in attempts:
        met = scene.budget_lines_at(attempt.deployment)
        worst = _worst_case(attempt, scene, carbon=met.counts_carbon)
        if met.is_worst_case_only:
            yield HoldOption(
                lines=met.lines, amounts=tuple([worst[one] for one in met.measures]), ceilings=met.ceilings
            )
        else:
            yield _staged_offer(attempt, attempts, scene, met.lines, worst)


def held_output_tokens(attempt: Attempt, scene: HoldInputs, lines: Sequence[BudgetLine]) -> int | None:
    """The output tokens behind the tightest expected hold; None where every line holds the worst case."""
    factors = [line.budget.expected_factor for line in lines if line.budget.expected_factor]
    if not factors:
        return None
    held = min([_usual_output_tokens(attempt, scene.usual_tokens(attempt.deployment), factor) for factor in factors])
    return held if held < attempt.output_tokens_max else None


def with_output_limit(attempt: Attempt, scene: HoldInputs, output: int, budget: str) -> Attempt:
    """The attempt with a lower output limit, and what it then holds in the worst case."""
    deployment, features = attempt.deployment, scene.facts
    money, energy = attempt.hold_nusd, attempt.hold_millijoules
    if money is not None and deployment.price_sheet is not None:
        money = pricing.worst_case(
            deployment.price_sheet, features.input_tokens_max, output, long_cache=features.writes_long_cache
        )
    if energy is not None and deployment.energy_models is not None:
        energy = energy_millijoules_mid(deployment.energy_models, features.input_tokens_max, output)
    return structs.replace(
        attempt,
        output_tokens_max=output,
        hold_nusd=money,
        hold_millijoules=energy,
        output_limit=output // scene.request.choice_count,
        reason=f"{attempt.reason}, {budget} leaves {output} output tokens",
    )


def with_output_cutoff(attempt: Attempt, scene: HoldInputs, output: int, budget: str) -> Attempt:
    """The attempt where less was held than such calls usually take: a whole answer gets that as its limit, a stream is
    watched."""
    reason = f"{attempt.reason}, {budget} leaves {output} output tokens"
    limit = None if scene.request.stream else output // scene.request.choice_count
    return structs.replace(attempt, output_limit=limit, reason=reason)


def with_usual_hold(attempt: Attempt, scene: HoldInputs, lines: Sequence[BudgetLine], output: int) -> Attempt:
    """The attempt with what was held for it where every line holds the usual case; unchanged where one holds the worst."""
    if not all(line.budget.expected_factor or line.budget.measure is Measure.calls for line in lines):
        return attempt
    deployment, features, usual = attempt.deployment, scene.facts, scene.usual_tokens(attempt.deployment)
    tokens = min(usual.input, features.input_tokens_max)
    cached = min(usual.cached_input, tokens)
    money, energy = attempt.hold_nusd, attempt.hold_millijoules
    if money is not None and deployment.price_sheet is not None:
        price = pricing.usual_case(
            deployment.price_sheet, tokens, cached, output, long_cache=features.writes_long_cache
        )
        money = min(money, price)
    if energy is not None and deployment.energy_models is not None:
        energy = min(energy, energy_millijoules_mid(deployment.energy_models, tokens, output, cached))
    return structs.replace(attempt, hold_nusd=money, hold_millijoules=energy, expected_tokens=(tokens, output))


def hold_growth(
    attempt: Attempt, scene: HoldInputs, lines: Sequence[BudgetLine], before: int, after: int
) -> tuple[int, ...]:
    """What each line holds more when the output held grows from `before` to `after` tokens; worst cases stay."""
    worst = _worst_case(attempt, scene, carbon=True)
    return tuple(
        [
            (_usual_amount(line, attempt, scene, worst, after) or 0)
            - (_usual_amount(line, attempt, scene, worst, before) or 0)
            if line.budget.expected_factor
            else 0
            for line in lines
        ]
    )


def _staged_offer(
    attempt: Attempt, attempts: Sequence[Attempt], scene: HoldInputs, lines: tuple[BudgetLine, ...], worst: Amounts
) -> HoldOption:
    """The offer where a budget has stages before its limit, or holds what is usual."""
    lowest = min([one.deployment.tier for one in attempts])
    shrinks = _shrink_tokens_min(attempt, scene, lines)
    wanted = tuple([_hold_amount(line, attempt, scene, worst, attempt.output_tokens_max) for line in lines])
    hard = [_line_ceiling(line, attempt, scene, cheaper=lowest) for line in lines]
    ceilings = [
        min(ceiling, line.budget.thresholds.shrink_above)
        if shrinks and line.budget.thresholds.shrink_above is not None
        else ceiling
        for line, ceiling in zip(lines, hard, strict=True)
    ]
    smaller = None
    if None not in wanted:
        smaller = (
            _shrunk_hold(attempt, scene, lines, wanted, ceilings, hard)
            if shrinks
            else _reduced_usual_hold(attempt, scene, lines, wanted, hard, worst)
        )
    return HoldOption(lines=lines, amounts=wanted, ceilings=tuple(ceilings), shrinkage=smaller)


def _worst_case(attempt: Attempt, scene: HoldInputs, *, carbon: bool) -> Amounts:
    """Every measure's worst case; carbon only where it counts."""
    features, passthrough, energy = scene.facts, scene.request.passthrough, attempt.hold_millijoules
    grams = _carbon_micrograms(attempt.deployment, energy) if carbon else 0
    if passthrough is not None and passthrough.is_free:
        return attempt.hold_nusd, 0, 1, energy, 0
    return attempt.hold_nusd, features.input_tokens_max + attempt.output_tokens_max, 1, energy, grams


def _hold_amount(line: BudgetLine, attempt: Attempt, scene: HoldInputs, worst: Amounts, output: int) -> int | None:
    """What is held on one line with this output limit: the worst case, or what is usual where that is less."""
    if not line.budget.expected_factor:
        return worst[line.budget.measure]
    usual = _usual_output_tokens(attempt, scene.usual_tokens(attempt.deployment), line.budget.expected_factor)
    return _usual_amount(line, attempt, scene, worst, min(output, usual))


def _usual_amount(line: BudgetLine, attempt: Attempt, scene: HoldInputs, worst: Amounts, output: int) -> int | None:
    """What the usual input and so many output tokens take; never more than the worst case."""
    measure, most = line.budget.measure, worst[line.budget.measure]
    if most is None or measure is Measure.calls or scene.request.passthrough is not None:
        return most
    deployment, features, usual = attempt.deployment, scene.facts, scene.usual_tokens(attempt.deployment)
    input_tokens = min(usual.input, features.input_tokens_max)
    cached = min(usual.cached_input, input_tokens)
    if measure is Measure.tokens:
        return min(most, input_tokens + output)
    if measure is Measure.nusd:
        assert deployment.price_sheet is not None, "what is priced has a sheet"
        return min(
            most,
            pricing.usual_case(
                deployment.price_sheet, input_tokens, cached, output, long_cache=features.writes_long_cache
            ),
        )
    assert deployment.energy_models is not None, "where energy is known there is a model"
    energy = energy_millijoules_mid(deployment.energy_models, input_tokens, output, cached)
    return min(most, energy if measure is Measure.millijoules else _carbon_micrograms(deployment, energy) or 0)


def _usual_output_tokens(attempt: Attempt, usual: UsualTokens, factor: float) -> int:
    return min(attempt.output_tokens_max, max(_OUTPUT_TOKENS_MIN, round(usual.output * factor)))


def _carbon_micrograms(deployment: Deployment, millijoules: int | None) -> int | None:
    if deployment.energy_models is None or millijoules is None:
        return None
    return carbon_hold_micrograms(deployment.energy_models, deployment.intensity, millijoules)


def _line_ceiling(line: BudgetLine, attempt: Attempt, scene: HoldInputs, *, cheaper: int) -> int:
    """How far this attempt may go on the line, whatever its size: the nearest stage that forbids more."""
    stages, ceiling = line.budget.thresholds, line.ceiling
    if stages.downgrade_above is not None and attempt.deployment.tier > stages.downgrade_tier_max >= cheaper:
        ceiling = min(ceiling, stages.downgrade_above)
    if scene.may_queue and stages.queue_above is not None:
        ceiling = min(ceiling, stages.queue_above)
    return ceiling


def _shrink_tokens_min(attempt: Attempt, scene: HoldInputs, lines: Iterable[BudgetLine]) -> int:
    """The least output tokens to which the attempt may shrink, 0 if it may not."""
    request = scene.request
    budgets = [line.budget for line in lines if line.budget.measure is not Measure.calls]
    mins = [budget.thresholds.output_tokens_min for budget in budgets if budget.thresholds.shrink_above is not None]
    if not mins or request.passthrough is not None or request.dialect not in _OUTPUT_LIMIT_DIALECTS:
        return 0
    least = max(_OUTPUT_TOKENS_MIN, *mins) * request.choice_count
    return least if least < attempt.output_tokens_max else 0


def _shrunk_hold(
    attempt: Attempt,
    scene: HoldInputs,
    lines: Sequence[BudgetLine],
    wanted: Sequence[int | None],
    ceilings: Sequence[int],
    hard: Sequence[int],
) -> Shrinkage:
    """What the attempt holds with lower output limits."""
    most = attempt.output_tokens_max
    fixed = [_input_only_amount(line, attempt, scene) for line in lines]
    return _linear_hold(wanted, fixed, most, _shrink_tokens_min(attempt, scene, lines), ceilings, hard)


def _reduced_usual_hold(
    attempt: Attempt,
    scene: HoldInputs,
    lines: Sequence[BudgetLine],
    wanted: Sequence[int | None],
    hard: Sequence[int],
    worst: Amounts,
) -> Shrinkage | None:
    """Where what such calls usually take does not fit, less of it may: the call then ends at what was held."""
    # With a limit of the caller's below what is usual, that limit.
    most = held_output_tokens(attempt, scene, lines) or attempt.output_tokens_max
    least = _OUTPUT_TOKENS_MIN * scene.request.choice_count
    if scene.may_queue and any(line.budget.thresholds.queue_above is not None for line in lines):
        # It waits for room first.
        return None
    expected = any(line.budget.expected_factor for line in lines)
    if (
        not expected
        or most <= least
        or scene.request.passthrough is not None
        or scene.request.dialect not in _OUTPUT_LIMIT_DIALECTS
    ):
        return None
    fixed = [
        _usual_amount(line, attempt, scene, worst, 0) or 0 if line.budget.expected_factor else full or 0
        for line, full in zip(lines, wanted, strict=True)
    ]
    return _linear_hold(wanted, fixed, most, least, hard, hard)


def _linear_hold(
    wanted: Sequence[int | None],
    fixed: Sequence[int],
    most: int,
    least: int,
    thresholds: Sequence[int],
    ceilings: Sequence[int],
) -> Shrinkage:
    """Holds as straight lines over the output: from nothing to `most` tokens, above what grows faster than the output."""
    each = [divide_ceil(max(0, (full or 0) - base), most) for full, base in zip(wanted, fixed, strict=True)]
    return Shrinkage(
        fixed_amounts=tuple(fixed),
        amounts_per_token=tuple(each),
        output_tokens_max=most,
        output_tokens_min=least,
        thresholds=tuple(thresholds),
        ceilings=tuple(ceilings),
    )


def _input_only_amount(line: BudgetLine, attempt: Attempt, scene: HoldInputs) -> int:
    deployment, features, measure = attempt.deployment, scene.facts, line.budget.measure
    if line.budget.expected_factor:
        return _usual_amount(line, attempt, scene, _worst_case(attempt, scene, carbon=True), 0) or 0
    if measure is Measure.calls:
        return 1
    if measure is Measure.tokens:
        return features.input_tokens_max
    if measure is Measure.nusd:
        assert deployment.price_sheet is not None, "what is priced has a sheet"
        return pricing.worst_case(
            deployment.price_sheet, features.input_tokens_max, 0, long_cache=features.writes_long_cache
        )
    assert deployment.energy_models is not None, "where energy is known there is a model"
    energy = energy_millijoules_mid(deployment.energy_models, features.input_tokens_max, 0)
    return energy if measure is Measure.millijoules else _carbon_micrograms(deployment, energy) or 0


def _is_cheaper(other: Attempt, first: Attempt) -> bool:
    """A cheaper tier, less money or less energy; what is unknown is more than anything known."""
    return (
        other.deployment.tier < first.deployment.tier
        or _is_less(other.hold_nusd, first.hold_nusd)
        or _is_less(other.hold_millijoules, first.hold_millijoules)
    )


def _is_less(one: int | None, other: int | None) -> bool:
    return one is not None and (other is None or one < other)
