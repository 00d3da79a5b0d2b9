"""Holds of each attempt on each budget: the worst or the usual case.

Budget stores only compare integers; prices, energy and lengths become amounts here.
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
from .asked_terms import usual_terms, worst_case_nusd

# Output limits are never lowered below this: the Responses API's minimum.
_OUTPUT_TOKENS_MIN = 16
# Dialects whose requests have an output limit that can be lowered.
_OUTPUT_LIMIT_DIALECTS = ("chat", "responses", "messages", "completions")


class UsualTokens(Value, frozen=True, kw_only=True):
    """Usual tokens of such a call.

    input: input tokens
    cached_input: part of the input that is read from a cache
    output: output tokens, all choices together
    """

    input: int
    cached_input: int
    output: int


class HoldInputs(Value, frozen=True, kw_only=True):
    """What the offers of a request are computed from.

    request: the parsed request
    features: its features
    budget_lines_at: budget lines that apply at a deployment
    usual_tokens: usual tokens of such a call at a deployment
    may_wait: whether it may still wait for capacity, so that queue thresholds apply and usual holds are not reduced
    """

    request: Request
    features: RequestFeatures
    budget_lines_at: Callable[[Deployment], ApplicableLines]
    usual_tokens: Callable[[Deployment], UsualTokens]
    may_wait: bool = False


def cheaper_indices(attempts: Sequence[Attempt], place: int) -> list[int]:
    """`place` and the later, cheaper indices: fallbacks when a budget is too tight."""
    first = attempts[place]
    return [place, *(later for later in range(place + 1, len(attempts)) if _is_cheaper(attempts[later], first))]


def hold_options(attempts: Sequence[Attempt], inputs: HoldInputs) -> Iterator[HoldOption]:
    """One offer for each attempt, in order, computed lazily."""
    for attempt in attempts:
        applicable = inputs.budget_lines_at(attempt.deployment)
        worst = _worst_case(attempt, inputs, carbon=applicable.counts_carbon)
        if applicable.is_worst_case_only:
            yield HoldOption(
                lines=applicable.lines,
                amounts=tuple([worst[measure] for measure in applicable.measures]),
                ceilings=applicable.ceilings,
            )
        elif inputs.may_wait and not applicable.has_thresholds:
            yield HoldOption(
                lines=applicable.lines,
                amounts=_usual_amounts(attempt, inputs, applicable, worst),
                ceilings=applicable.ceilings,
            )
        else:
            yield _staged_offer(attempt, attempts, inputs, applicable.lines, worst)


def held_output_tokens(attempt: Attempt, inputs: HoldInputs, lines: Sequence[BudgetLine]) -> int | None:
    """Output tokens of the tightest usual-case hold; None if all are worst cases."""
    factors = [line.budget.expected_factor for line in lines if line.budget.expected_factor]
    if not factors:
        return None
    held = min([_usual_output_tokens(attempt, inputs.usual_tokens(attempt.deployment), factor) for factor in factors])
    return held if held < attempt.output_tokens_max else None


def with_output_limit(attempt: Attempt, inputs: HoldInputs, output: int, budget: str) -> Attempt:
    """The attempt with a lower output limit and its worst-case hold."""
    deployment, features = attempt.deployment, inputs.features
    money, energy = attempt.hold_nusd, attempt.hold_millijoules
    added_input, added_output = attempt.added_tokens
    if money is not None and deployment.price_sheet is not None:
        money = worst_case_nusd(deployment.price_sheet, features, output, attempt.price_terms)
    if energy is not None and deployment.energy_models is not None:
        tokens = features.input_tokens_max + added_input, output + added_output
        energy = energy_millijoules_mid(deployment.energy_models, *tokens)
    return structs.replace(
        attempt,
        output_tokens_max=output,
        hold_nusd=money,
        hold_millijoules=energy,
        output_limit=output // inputs.request.choice_count,
        reason=f"{attempt.reason}, {budget} allows {output} output tokens",
    )


def with_output_cutoff(attempt: Attempt, inputs: HoldInputs, output: int, budget: str) -> Attempt:
    """The attempt when less than the usual case was held.

    Whole responses get the amount held as their output limit, and so do background responses, which do not end with
    their stream; other streams are cut off at it.
    """
    reason = f"{attempt.reason}, {budget} allows {output} output tokens"
    is_cut_off = inputs.request.stream and not inputs.request.is_background
    limit = None if is_cut_off else output // inputs.request.choice_count
    return structs.replace(attempt, output_limit=limit, reason=reason)


def with_usual_hold(attempt: Attempt, inputs: HoldInputs, lines: Sequence[BudgetLine], output: int) -> Attempt:
    """The attempt with its usual-case hold; unchanged if a line is worst-case."""
    if not all(line.budget.expected_factor or line.budget.measure is Measure.calls for line in lines):
        return attempt
    deployment, features, usual = attempt.deployment, inputs.features, inputs.usual_tokens(attempt.deployment)
    tokens = min(usual.input, features.input_tokens_max)
    cached = min(usual.cached_input, tokens)
    money, energy = attempt.hold_nusd, attempt.hold_millijoules
    if money is not None and deployment.price_sheet is not None:
        price = pricing.usual_case(
            deployment.price_sheet,
            tokens,
            cached,
            output,
            long_cache=features.writes_long_cache,
            terms=usual_terms(attempt.price_terms),
        )
        money = min(money, price)
    if energy is not None and deployment.energy_models is not None:
        energy = min(energy, energy_millijoules_mid(deployment.energy_models, tokens, output, cached))
    return structs.replace(attempt, hold_nusd=money, hold_millijoules=energy, expected_tokens=(tokens, output))


def hold_growth(
    attempt: Attempt, inputs: HoldInputs, lines: Sequence[BudgetLine], before: int, after: int
) -> tuple[int, ...]:
    """Growth of each line's hold from `before` to `after` output tokens."""
    worst = _worst_case(attempt, inputs, carbon=True)
    return tuple(
        [
            (_usual_amount(line, attempt, inputs, worst, after) or 0)
            - (_usual_amount(line, attempt, inputs, worst, before) or 0)
            if line.budget.expected_factor
            else 0
            for line in lines
        ]
    )


def _usual_amounts(
    attempt: Attempt, inputs: HoldInputs, applicable: ApplicableLines, worst: Amounts
) -> tuple[int | None, ...]:
    """The hold on each line where nothing happens below the limits; computed once for lines of one kind."""
    amounts: list[int | None] = []
    known: dict[tuple[Measure, float], int | None] = {}
    for line, measure in zip(applicable.lines, applicable.measures, strict=True):
        factor = line.budget.expected_factor
        if not factor:
            amounts.append(worst[measure])
            continue
        kind = measure, factor
        if kind not in known:
            known[kind] = _hold_amount(line, attempt, inputs, worst, attempt.output_tokens_max)
        amounts.append(known[kind])
    return tuple(amounts)


def _staged_offer(
    attempt: Attempt, attempts: Sequence[Attempt], inputs: HoldInputs, lines: tuple[BudgetLine, ...], worst: Amounts
) -> HoldOption:
    """The offer where a budget has thresholds, or holds the usual case."""
    lowest = min([other.deployment.tier for other in attempts])
    shrinks = _shrink_tokens_min(attempt, inputs, lines)
    full_amounts = tuple([_hold_amount(line, attempt, inputs, worst, attempt.output_tokens_max) for line in lines])
    hard = [_line_ceiling(line, attempt, inputs, lowest=lowest) for line in lines]
    ceilings = [
        min(ceiling, line.budget.thresholds.shrink_above)
        if shrinks and line.budget.thresholds.shrink_above is not None
        else ceiling
        for line, ceiling in zip(lines, hard, strict=True)
    ]
    shrinkage = None
    if None not in full_amounts:
        shrinkage = (
            _shrunk_hold(attempt, inputs, lines, full_amounts, ceilings, hard)
            if shrinks
            else _reduced_usual_hold(attempt, inputs, lines, full_amounts, hard, worst)
        )
    return HoldOption(lines=lines, amounts=full_amounts, ceilings=tuple(ceilings), shrinkage=shrinkage)


def _worst_case(attempt: Attempt, inputs: HoldInputs, *, carbon: bool) -> Amounts:
    """Worst case of every measure; carbon only if a line counts it."""
    features, passthrough, energy = inputs.features, inputs.request.passthrough, attempt.hold_millijoules
    grams = _carbon_micrograms(attempt.deployment, energy) if carbon else 0
    if passthrough is not None and passthrough.is_free:
        return attempt.hold_nusd, 0, 1, energy, 0
    tokens = features.input_tokens_max + attempt.output_tokens_max + sum(attempt.added_tokens)
    return attempt.hold_nusd, tokens, 1, energy, grams


def _hold_amount(line: BudgetLine, attempt: Attempt, inputs: HoldInputs, worst: Amounts, output: int) -> int | None:
    """Hold on a line at this output limit: the worst case, or the usual if allowed."""
    if not line.budget.expected_factor:
        return worst[line.budget.measure]
    usual = _usual_output_tokens(attempt, inputs.usual_tokens(attempt.deployment), line.budget.expected_factor)
    return _usual_amount(line, attempt, inputs, worst, min(output, usual))


def _usual_amount(line: BudgetLine, attempt: Attempt, inputs: HoldInputs, worst: Amounts, output: int) -> int | None:
    """Amount of the usual input and `output` tokens, at most the worst case."""
    measure, most = line.budget.measure, worst[line.budget.measure]
    if most is None or measure is Measure.calls or inputs.request.passthrough is not None:
        return most
    deployment, features, usual = attempt.deployment, inputs.features, inputs.usual_tokens(attempt.deployment)
    input_tokens = min(usual.input, features.input_tokens_max)
    cached = min(usual.cached_input, input_tokens)
    if measure is Measure.tokens:
        return min(most, input_tokens + output)
    if measure is Measure.nusd:
        assert deployment.price_sheet is not None, "a priced attempt has a price sheet"
        return min(
            most,
            pricing.usual_case(
                deployment.price_sheet,
                input_tokens,
                cached,
                output,
                long_cache=features.writes_long_cache,
                terms=usual_terms(attempt.price_terms),
            ),
        )
    assert deployment.energy_models is not None, "known energy implies an energy model"
    energy = energy_millijoules_mid(deployment.energy_models, input_tokens, output, cached)
    return min(most, energy if measure is Measure.millijoules else _carbon_micrograms(deployment, energy) or 0)


def _usual_output_tokens(attempt: Attempt, usual: UsualTokens, factor: float) -> int:
    return min(attempt.output_tokens_max, max(_OUTPUT_TOKENS_MIN, round(usual.output * factor)))


def _carbon_micrograms(deployment: Deployment, millijoules: int | None) -> int | None:
    if deployment.energy_models is None or millijoules is None:
        return None
    return carbon_hold_micrograms(deployment.energy_models, deployment.intensity, millijoules)


def _line_ceiling(line: BudgetLine, attempt: Attempt, inputs: HoldInputs, *, lowest: int) -> int:
    """Ceiling of this attempt on the line: the lowest threshold that applies to it."""
    thresholds, ceiling = line.budget.thresholds, line.ceiling
    if thresholds.downgrade_above is not None and attempt.deployment.tier > thresholds.downgrade_tier_max >= lowest:
        ceiling = min(ceiling, thresholds.downgrade_above)
    if inputs.may_wait and thresholds.queue_above is not None:
        ceiling = min(ceiling, thresholds.queue_above)
    return ceiling


def _shrink_tokens_min(attempt: Attempt, inputs: HoldInputs, lines: Iterable[BudgetLine]) -> int:
    """Least output tokens to which the attempt may shrink, 0 if it may not."""
    request = inputs.request
    budgets = [line.budget for line in lines if line.budget.measure is not Measure.calls]
    mins = [budget.thresholds.output_tokens_min for budget in budgets if budget.thresholds.shrink_above is not None]
    if not mins or request.passthrough is not None or request.dialect not in _OUTPUT_LIMIT_DIALECTS:
        return 0
    if attempt.price_terms.further_calls:
        # Their holds do not shrink in proportion to the output.
        return 0
    least = max(_OUTPUT_TOKENS_MIN, *mins) * request.choice_count
    return least if least < attempt.output_tokens_max else 0


def _shrunk_hold(
    attempt: Attempt,
    inputs: HoldInputs,
    lines: Sequence[BudgetLine],
    full_amounts: Sequence[int | None],
    ceilings: Sequence[int],
    hard: Sequence[int],
) -> Shrinkage:
    """Holds of the attempt at lower output limits."""
    most = attempt.output_tokens_max
    fixed = [_input_only_amount(line, attempt, inputs) for line in lines]
    return _linear_hold(full_amounts, fixed, most, _shrink_tokens_min(attempt, inputs, lines), ceilings, hard)


def _reduced_usual_hold(
    attempt: Attempt,
    inputs: HoldInputs,
    lines: Sequence[BudgetLine],
    full_amounts: Sequence[int | None],
    hard: Sequence[int],
    worst: Amounts,
) -> Shrinkage | None:
    """Holds below the usual case; the call is cut off at what was held."""
    if inputs.may_wait:
        # Held capacity may return first, and an answer is not cut for it.
        return None
    # The usual output, or the caller's limit where that is lower.
    most = held_output_tokens(attempt, inputs, lines) or attempt.output_tokens_max
    least = _OUTPUT_TOKENS_MIN * inputs.request.choice_count
    expected = any(line.budget.expected_factor for line in lines)
    if (
        not expected
        or most <= least
        or inputs.request.passthrough is not None
        or inputs.request.dialect not in _OUTPUT_LIMIT_DIALECTS
    ):
        return None
    fixed = [
        _usual_amount(line, attempt, inputs, worst, 0) or 0 if line.budget.expected_factor else full or 0
        for line, full in zip(lines, full_amounts, strict=True)
    ]
    return _linear_hold(full_amounts, fixed, most, least, hard, hard)


def _linear_hold(
    full_amounts: Sequence[int | None],
    fixed: Sequence[int],
    most: int,
    least: int,
    thresholds: Sequence[int],
    ceilings: Sequence[int],
) -> Shrinkage:
    """Upper bounds of the holds, linear in the output from 0 to `most` tokens."""
    per_token = [divide_ceil(max(0, (full or 0) - base), most) for full, base in zip(full_amounts, fixed, strict=True)]
    return Shrinkage(
        fixed_amounts=tuple(fixed),
        amounts_per_token=tuple(per_token),
        output_tokens_max=most,
        output_tokens_min=least,
        thresholds=tuple(thresholds),
        ceilings=tuple(ceilings),
    )


def _input_only_amount(line: BudgetLine, attempt: Attempt, inputs: HoldInputs) -> int:
    deployment, features, measure = attempt.deployment, inputs.features, line.budget.measure
    if line.budget.expected_factor:
        return _usual_amount(line, attempt, inputs, _worst_case(attempt, inputs, carbon=True), 0) or 0
    if measure is Measure.calls:
        return 1
    if measure is Measure.tokens:
        return features.input_tokens_max + sum(attempt.added_tokens)
    if measure is Measure.nusd:
        assert deployment.price_sheet is not None, "a priced attempt has a price sheet"
        return worst_case_nusd(deployment.price_sheet, features, 0, attempt.price_terms)
    assert deployment.energy_models is not None, "known energy implies an energy model"
    added_input, added_output = attempt.added_tokens
    energy = energy_millijoules_mid(deployment.energy_models, features.input_tokens_max + added_input, added_output)
    return energy if measure is Measure.millijoules else _carbon_micrograms(deployment, energy) or 0


def _is_cheaper(other: Attempt, first: Attempt) -> bool:
    """Whether `other` has a lower tier, price or energy; unknown counts as most."""
    return (
        other.deployment.tier < first.deployment.tier
        or _is_less(other.hold_nusd, first.hold_nusd)
        or _is_less(other.hold_millijoules, first.hold_millijoules)
    )


def _is_less(one: int | None, other: int | None) -> bool:
    return one is not None and (other is None or one < other)
