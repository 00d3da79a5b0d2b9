"""What each attempt would hold on each budget: the worst case, or what such calls usually take where that is allowed.

The books only compare integers; all that is known of prices, energy and lengths is turned into amounts here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import structs

from ..accounting import pricing
from ..carbon.footprint import carbon_micrograms_held, energy_millijoules_mid
from ..values.base import Value
from ..values.budget import Amounts, Line, Measure, Met, Offer, Smaller
from ..values.catalog import Deployment
from ..values.plan import Attempt, Facts
from ..values.request import Request
from ..values.units import divide_up

# Output limits are never lowered below this: the Responses API takes no less than 16.
_OUTPUT_MIN = 16
# Dialects whose requests have an output limit that we may lower.
_LIMITED = ("chat", "responses", "messages", "completions")


class Usual(Value, frozen=True, kw_only=True):
    """What such a call usually takes, in tokens: input, the part of it that will be read from a cache, and output
    (all choices together)."""

    input: int
    cached_input: int
    output: int


class Scene(Value, frozen=True, kw_only=True):
    """What offers are made from: the request, what it looks like, and the lines that it meets at each deployment.

    `usual` says what such a call usually takes at a deployment. `waiting`: a queue stage may still make it wait.
    """

    request: Request
    facts: Facts
    lines_at: Callable[[Deployment], Met]
    usual: Callable[[Deployment], Usual]
    waiting: bool = False


def affordable(attempts: Sequence[Attempt], place: int) -> list[int]:
    """`place`, then the places after it that take less: what a budget that is too tight may fall back to."""
    first = attempts[place]
    return [place, *(at for at in range(place + 1, len(attempts)) if _takes_less(attempts[at], first))]


def offers(attempts: Sequence[Attempt], scene: Scene) -> Iterator[Offer]:
    """One offer for each attempt, in their order; each is made when it is asked for."""
    for attempt in attempts:
        met = scene.lines_at(attempt.deployment)
        worst = _worst(attempt, scene, carbon=met.carbon)
        if met.plain:
            yield Offer(lines=met.lines, wanted=tuple([worst[one] for one in met.measures]), ceilings=met.ceilings)
        else:
            yield _staged(attempt, attempts, scene, met.lines, worst)


def output_held(attempt: Attempt, scene: Scene, lines: Sequence[Line]) -> int | None:
    """The output tokens behind the tightest expected hold; None where every line holds the worst case."""
    factors = [line.budget.expected for line in lines if line.budget.expected]
    if not factors:
        return None
    held = min([_usual_output(attempt, scene.usual(attempt.deployment), factor) for factor in factors])
    return held if held < attempt.output_tokens_max else None


def shrunk(attempt: Attempt, scene: Scene, output: int, budget: str) -> Attempt:
    """The attempt with a lower output limit, and what it then holds in the worst case."""
    deployment, facts = attempt.deployment, scene.facts
    money, energy = attempt.hold_nusd, attempt.hold_millijoules
    if money is not None and deployment.sheet is not None:
        money = pricing.worst_case(deployment.sheet, facts.input_tokens_max, output, long_cache=facts.long_cache)
    if energy is not None and deployment.energy is not None:
        energy = energy_millijoules_mid(deployment.energy, facts.input_tokens_max, output)
    return structs.replace(
        attempt,
        output_tokens_max=output,
        hold_nusd=money,
        hold_millijoules=energy,
        output_limit=output // scene.request.choices,
        reason=f"{attempt.reason}, {budget} leaves {output} output tokens",
    )


def ends_at(attempt: Attempt, scene: Scene, output: int, budget: str) -> Attempt:
    """The attempt where less was held than such calls usually take: a whole answer gets that as its limit, a stream is
    watched."""
    reason = f"{attempt.reason}, {budget} leaves {output} output tokens"
    limit = None if scene.request.stream else output // scene.request.choices
    return structs.replace(attempt, output_limit=limit, reason=reason)


def at_usual(attempt: Attempt, scene: Scene, lines: Sequence[Line], output: int) -> Attempt:
    """The attempt with what was held for it where every line holds the usual case; unchanged where one holds the worst."""
    if not all(line.budget.expected or line.budget.measure is Measure.calls for line in lines):
        return attempt
    deployment, facts, usual = attempt.deployment, scene.facts, scene.usual(attempt.deployment)
    tokens = min(usual.input, facts.input_tokens_max)
    cached = min(usual.cached_input, tokens)
    money, energy = attempt.hold_nusd, attempt.hold_millijoules
    if money is not None and deployment.sheet is not None:
        price = pricing.usual_case(deployment.sheet, tokens, cached, output, long_cache=facts.long_cache)
        money = min(money, price)
    if energy is not None and deployment.energy is not None:
        energy = min(energy, energy_millijoules_mid(deployment.energy, tokens, output, cached))
    return structs.replace(attempt, hold_nusd=money, hold_millijoules=energy, tokens_held=(tokens, output))


def growth(attempt: Attempt, scene: Scene, lines: Sequence[Line], before: int, after: int) -> tuple[int, ...]:
    """What each line holds more when the output held grows from `before` to `after` tokens; worst cases stay."""
    worst = _worst(attempt, scene, carbon=True)
    return tuple(
        [
            (_amount(line, attempt, scene, worst, after) or 0) - (_amount(line, attempt, scene, worst, before) or 0)
            if line.budget.expected
            else 0
            for line in lines
        ]
    )


def _staged(
    attempt: Attempt, attempts: Sequence[Attempt], scene: Scene, lines: tuple[Line, ...], worst: Amounts
) -> Offer:
    """The offer where a budget has stages before its limit, or holds what is usual."""
    lowest = min([one.deployment.tier for one in attempts])
    shrinks = _shrinks(attempt, scene, lines)
    wanted = tuple([_wanted(line, attempt, scene, worst, attempt.output_tokens_max) for line in lines])
    hard = [_ceiling(line, attempt, scene, cheaper=lowest) for line in lines]
    ceilings = [
        min(ceiling, line.budget.stages.shrink) if shrinks and line.budget.stages.shrink is not None else ceiling
        for line, ceiling in zip(lines, hard, strict=True)
    ]
    smaller = None
    if None not in wanted:
        smaller = (
            _smaller(attempt, scene, lines, wanted, ceilings, hard)
            if shrinks
            else _tighter(attempt, scene, lines, wanted, hard, worst)
        )
    return Offer(lines=lines, wanted=wanted, ceilings=tuple(ceilings), smaller=smaller)


def _worst(attempt: Attempt, scene: Scene, *, carbon: bool) -> Amounts:
    """Every measure's worst case; carbon only where it counts."""
    facts, passage, energy = scene.facts, scene.request.passage, attempt.hold_millijoules
    grams = _carbon(attempt.deployment, energy) if carbon else 0
    if passage is not None and passage.free:
        return attempt.hold_nusd, 0, 1, energy, 0
    return attempt.hold_nusd, facts.input_tokens_max + attempt.output_tokens_max, 1, energy, grams


def _wanted(line: Line, attempt: Attempt, scene: Scene, worst: Amounts, output: int) -> int | None:
    """What is held on one line with this output limit: the worst case, or what is usual where that is less."""
    if not line.budget.expected:
        return worst[line.budget.measure]
    usual = _usual_output(attempt, scene.usual(attempt.deployment), line.budget.expected)
    return _amount(line, attempt, scene, worst, min(output, usual))


def _amount(line: Line, attempt: Attempt, scene: Scene, worst: Amounts, output: int) -> int | None:
    """What the usual input and so many output tokens take; never more than the worst case."""
    measure, most = line.budget.measure, worst[line.budget.measure]
    if most is None or measure is Measure.calls or scene.request.passage is not None:
        return most
    deployment, facts, usual = attempt.deployment, scene.facts, scene.usual(attempt.deployment)
    input_tokens = min(usual.input, facts.input_tokens_max)
    cached = min(usual.cached_input, input_tokens)
    if measure is Measure.tokens:
        return min(most, input_tokens + output)
    if measure is Measure.nusd:
        assert deployment.sheet is not None, "what is priced has a sheet"
        return min(
            most, pricing.usual_case(deployment.sheet, input_tokens, cached, output, long_cache=facts.long_cache)
        )
    assert deployment.energy is not None, "where energy is known there is a model"
    energy = energy_millijoules_mid(deployment.energy, input_tokens, output, cached)
    return min(most, energy if measure is Measure.millijoules else _carbon(deployment, energy) or 0)


def _usual_output(attempt: Attempt, usual: Usual, factor: float) -> int:
    return min(attempt.output_tokens_max, max(_OUTPUT_MIN, round(usual.output * factor)))


def _carbon(deployment: Deployment, millijoules: int | None) -> int | None:
    if deployment.energy is None or millijoules is None:
        return None
    return carbon_micrograms_held(deployment.energy, deployment.intensity, millijoules)


def _ceiling(line: Line, attempt: Attempt, scene: Scene, *, cheaper: int) -> int:
    """How far this attempt may go on the line, whatever its size: the nearest stage that forbids more."""
    stages, ceiling = line.budget.stages, line.ceiling
    if stages.downgrade is not None and attempt.deployment.tier > stages.tier_max >= cheaper:
        ceiling = min(ceiling, stages.downgrade)
    if scene.waiting and stages.queue is not None:
        ceiling = min(ceiling, stages.queue)
    return ceiling


def _shrinks(attempt: Attempt, scene: Scene, lines: Iterable[Line]) -> int:
    """The least output tokens to which the attempt may shrink, 0 if it may not."""
    request = scene.request
    budgets = [line.budget for line in lines if line.budget.measure is not Measure.calls]
    mins = [budget.stages.output_min for budget in budgets if budget.stages.shrink is not None]
    if not mins or request.passage is not None or request.dialect not in _LIMITED:
        return 0
    least = max(_OUTPUT_MIN, *mins) * request.choices
    return least if least < attempt.output_tokens_max else 0


def _smaller(
    attempt: Attempt,
    scene: Scene,
    lines: Sequence[Line],
    wanted: Sequence[int | None],
    ceilings: Sequence[int],
    hard: Sequence[int],
) -> Smaller:
    """What the attempt holds with lower output limits."""
    most = attempt.output_tokens_max
    fixed = [_without_output(line, attempt, scene) for line in lines]
    return _chord(wanted, fixed, most, _shrinks(attempt, scene, lines), ceilings, hard)


def _tighter(
    attempt: Attempt,
    scene: Scene,
    lines: Sequence[Line],
    wanted: Sequence[int | None],
    hard: Sequence[int],
    worst: Amounts,
) -> Smaller | None:
    """Where what such calls usually take does not fit, less of it may: the call then ends at what was held."""
    # With a limit of the caller's below what is usual, that limit.
    most = output_held(attempt, scene, lines) or attempt.output_tokens_max
    least = _OUTPUT_MIN * scene.request.choices
    if scene.waiting and any(line.budget.stages.queue is not None for line in lines):
        # It waits for room first.
        return None
    expected = any(line.budget.expected for line in lines)
    if not expected or most <= least or scene.request.passage is not None or scene.request.dialect not in _LIMITED:
        return None
    fixed = [
        _amount(line, attempt, scene, worst, 0) or 0 if line.budget.expected else full or 0
        for line, full in zip(lines, wanted, strict=True)
    ]
    return _chord(wanted, fixed, most, least, hard, hard)


def _chord(
    wanted: Sequence[int | None],
    fixed: Sequence[int],
    most: int,
    least: int,
    thresholds: Sequence[int],
    ceilings: Sequence[int],
) -> Smaller:
    """Holds as straight lines over the output: from nothing to `most` tokens, above what grows faster than the output."""
    each = [divide_up(max(0, (full or 0) - base), most) for full, base in zip(wanted, fixed, strict=True)]
    return Smaller(
        fixed=tuple(fixed),
        per_token=tuple(each),
        most=most,
        least=least,
        thresholds=tuple(thresholds),
        ceilings=tuple(ceilings),
    )


def _without_output(line: Line, attempt: Attempt, scene: Scene) -> int:
    deployment, facts, measure = attempt.deployment, scene.facts, line.budget.measure
    if line.budget.expected:
        return _amount(line, attempt, scene, _worst(attempt, scene, carbon=True), 0) or 0
    if measure is Measure.calls:
        return 1
    if measure is Measure.tokens:
        return facts.input_tokens_max
    if measure is Measure.nusd:
        assert deployment.sheet is not None, "what is priced has a sheet"
        return pricing.worst_case(deployment.sheet, facts.input_tokens_max, 0, long_cache=facts.long_cache)
    assert deployment.energy is not None, "where energy is known there is a model"
    energy = energy_millijoules_mid(deployment.energy, facts.input_tokens_max, 0)
    return energy if measure is Measure.millijoules else _carbon(deployment, energy) or 0


def _takes_less(other: Attempt, first: Attempt) -> bool:
    """A cheaper tier, less money or less energy; what is unknown is more than anything known."""
    return (
        other.deployment.tier < first.deployment.tier
        or _less(other.hold_nusd, first.hold_nusd)
        or _less(other.hold_millijoules, first.hold_millijoules)
    )


def _less(one: int | None, other: int | None) -> bool:
    return one is not None and (other is None or one < other)
