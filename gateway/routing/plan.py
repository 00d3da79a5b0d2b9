"""The decision: which deployments are tried for this request, in which order, and what is held for each.

An `auto` route has an aim: the lowest tier that will do (aims.py). Among the candidates at or above it the order is by
what the next stretch of the session is expected to cost (economics.py), with the internal carbon price on top: so a session
stays where its cache is warm as long as that pays. Behind them stand the tiers below, nearest first: they are used when
an attempt fails, or when a budget cannot hold the ones before. Of deployments that cost the same the less busy of two
drawn at random comes first (power of two choices: Mitzenmacher, IEEE TPDS 12 (2001)).
"""

import math
from collections.abc import Callable, Mapping, Sequence

from msgspec import structs

from ..accounting import pricing
from ..accounting.output_estimate import UNKNOWN_USUAL_TOKENS
from ..carbon.footprint import energy_millijoules_mid, weighed_micrograms
from ..dialects.translation import Carrier, speech_of
from ..values.base import Value
from ..values.catalog import Deployment, PriceSheet, Route, Tier
from ..values.energy_policy import NOT_GREEN, Green
from ..values.errors import NotCarriable
from ..values.plan import Attempt, Bond, Facts, Plan, Refusal
from ..values.request import Passage, Request
from ..values.units import JOULES_PER_KWH, NUSD_PER_USD
from .carbon_order import Ranked, greener
from .circuit_breaker import Standing
from .deployment_load import IDLE, Load
from .expected_cost import ABOVE_MARGIN, NOTHING_EXPECTED, Outlook, Stake, stretch_of, total_nusd
from .rules import FORBIDDING, circuit_breaker
from .rules.candidate import Candidate
from .tier_target import Aim

# Bytes / 4 is within this factor on prose, code and tool output (docs/methodology.md).
_ESTIMATE_ERROR = 1.5
_MICROGRAMS_PER_KG, _MILLIJOULES_PER_KWH = 1_000_000_000, JOULES_PER_KWH * 1000
# Candidates of a tier whose totals differ by a smaller share (a judgement) are the same to an operator: the less busy one is taken.
_SAME_COST = 0.02
# Of an answer after its first byte, ms per token, where only the first byte's wait is known: a judgement, 50 tokens a second.
TOKEN_MS = 20.0


class Situation(Value, frozen=True, kw_only=True):
    """What a decision takes into account beside the request. `aim` is None where the route leaves no choice.

    `typical` gives the usual output tokens of a model (one choice), `standing` and `load` how a deployment stands;
    `toss` in [0, 1) is for draws between equals. `deadline_ms`: the answer is wanted by then. `green` is what energy and
    carbon weigh for this kind of work, `chosen` the deployment that the same kind went to last; `deferrable`: it can wait.
    """

    green: Green = NOT_GREEN
    chosen: str = ""
    deferrable: bool = False
    standing: Callable[[str], Standing]
    carrier: Carrier
    aim: Aim | None = None
    outlook: Outlook = NOTHING_EXPECTED
    typical: Callable[[str], int] = lambda model: UNKNOWN_USUAL_TOKENS
    load: Callable[[str], Load] = lambda name: IDLE
    toss: float = 0.0
    deadline_ms: float | None = None


def decide(route: Route, request: Request, facts: Facts, situation: Situation) -> Plan | Refusal:
    """Order the route's candidates; a Refusal if every one of them is struck."""
    struck: dict[str, str] = {}
    eligible: list[Candidate] = []
    unfit: list[Candidate] = []
    signal = _signal(route, situation.green)
    for deployment in route.candidates:
        candidate = _candidate(deployment, route, request, facts, situation, signal)
        for rule in FORBIDDING:
            reason = rule(candidate, facts)
            if reason is not None:
                struck[deployment.name] = reason
                unfit.append(candidate)
                break
        else:
            eligible.append(candidate)
    if not eligible:
        return _nobody(route, struck, unfit)
    if situation.aim is None:
        return Plan(attempts=_named(eligible, facts, situation), struck=struck)
    return Plan(attempts=_aimed(eligible, facts, situation, situation.aim), struck=struck)


def _signal(route: Route, green: Green) -> str:
    """By which intensity candidates are compared: a marginal one is not to be weighed against an average."""
    if green.signal == "marginal" and all(
        one.intensity.marginal_grams_per_kwh is not None for one in route.candidates if one.energy is not None
    ):
        return "marginal"
    return "average"


def _named(eligible: Sequence[Candidate], facts: Facts, situation: Situation) -> tuple[Attempt, ...]:
    """The order of the file, but for what rests; where the operator asks for it, the greener of the first's tier first."""
    order: Sequence[Ranked] = [(one, 0.0) for one in sorted(eligible, key=lambda one: one.resting)]
    why = ""
    if situation.green.moves:
        tier = order[0][0].deployment.tier
        same = [pair for pair in order if pair[0].deployment.tier == tier]
        moved, why = greener(same, situation.green, least=tier, chosen=situation.chosen)
        order = [*moved, *[pair for pair in order if pair[0].deployment.tier != tier]]
    return tuple(
        _attempt(one, (("fallback" if place else why or "named") + ", resting" * one.resting), facts.bonds)
        for place, (one, _) in enumerate(order)
    )


def _aimed(eligible: Sequence[Candidate], facts: Facts, situation: Situation, aim: Aim) -> tuple[Attempt, ...]:
    """The order of an auto route, and why each stands where it does."""
    totals = [
        total * (1 + ABOVE_MARGIN) if one.deployment.tier > aim.tier else total
        for one, total in zip(eligible, _totals(eligible, facts, situation), strict=True)
    ]
    # Without every price tiers cannot be compared: the nearest comes first, and in it what has a price.
    compared = all(one.deployment.sheet is not None for one in eligible)
    ranked = sorted(
        [(one.resting, one.late, _below(one.deployment.tier, aim.tier), 0 if compared else one.deployment.tier, total, place)
         for place, (one, total) in enumerate(zip(eligible, totals, strict=True))]
    )  # fmt: skip
    order = _spread([(eligible[rank[-1]], rank[-2]) for rank in ranked], situation)
    green = ""
    if situation.green.moves:
        order, green = greener(order, situation.green, least=aim.tier, chosen=situation.chosen)
    first = order[0][0].deployment
    attempts = []
    for number, (candidate, _) in enumerate(order):
        why = _why(candidate, aim, first=number == 0)
        if number == 0 and green:
            why += f", {green}"
        elif number == 0 and first.tier > aim.tier:
            why += _against(order, aim)
        attempts.append(_attempt(candidate, why, facts.bonds))
    return tuple(attempts)


def _totals(eligible: Sequence[Candidate], facts: Facts, situation: Situation) -> list[float]:
    """What the next stretch of the session is expected to cost with each, in nUSD with carbon and energy at their price."""
    outlook, green = situation.outlook, situation.green
    priced = green.carbon_nusd_per_kg or green.energy_nusd_per_kwh
    stakes, calls = [_stake(one, outlook) for one in eligible], stretch_of(outlook)[0] if priced else 0.0
    # What is not known counts as the most that is: it must not win by that.
    dearest = max((_priced(one, green) for one in eligible), default=0.0) if priced else 0.0
    found = []
    for one, stake in zip(eligible, stakes, strict=True):
        if stake is None:
            found.append(math.inf)
            continue
        above = [
            other
            for candidate, other in zip(eligible, stakes, strict=True)
            if other is not None and candidate.deployment.tier > one.deployment.tier
        ]
        total = total_nusd(stake, above, facts.input_tokens, outlook)
        found.append(total + calls * (dearest if one.deployment.energy is None else _priced(one, green)))
    return found


def _priced(one: Candidate, green: Green) -> float:
    """What a call's energy and carbon are worth, in nUSD; 0 where neither has a price, or nothing is known."""
    carbon = one.expected_micrograms * green.carbon_nusd_per_kg / _MICROGRAMS_PER_KG
    return carbon + one.expected_millijoules * green.energy_nusd_per_kwh / _MILLIJOULES_PER_KWH


def _stake(candidate: Candidate, outlook: Outlook) -> Stake | None:
    sheet = candidate.deployment.sheet
    if sheet is None:
        return None
    return Stake(
        sheet=sheet,
        output_tokens=candidate.output_tokens,
        warm_tokens=outlook.warm.get(candidate.deployment.name, 0),
        failing=candidate.load.failing,
    )


def _spread(order: list[tuple[Candidate, float]], situation: Situation) -> list[tuple[Candidate, float]]:
    """The order with the less busy of two equals first, drawn at random from all that cost the same as the first."""
    first, total = order[0]
    if first.warm:
        return order
    equals = [
        place
        for place, (one, other) in enumerate(order)
        if one.deployment.tier == first.deployment.tier
        and one.resting == first.resting
        and one.late == first.late
        and not one.warm
        and (other == total or abs(other - total) <= _SAME_COST * total)
    ]
    if len(equals) < 2:
        return order
    drawn = int(situation.toss * len(equals) * (len(equals) - 1))
    one, other = divmod(drawn, len(equals) - 1)
    pair = equals[one], equals[other if other < one else other + 1]
    best = min(pair, key=lambda place: (order[place][0].load.tight, order[place][0].load.score))
    return [order[best], *order[:best], *order[best + 1 :]]


def _below(tier: Tier, aimed: Tier) -> int:
    """0 for what will do; tiers below come after that, nearest first."""
    return max(0, aimed - tier)


def _why(candidate: Candidate, aim: Aim, *, first: bool) -> str:
    tier = candidate.deployment.tier
    if tier == aim.tier:
        why = aim.why
    elif tier < aim.tier:
        why = f"below {aim.tier.name}"
    else:
        why = aim.why if first else f"above {aim.tier.name}"
    if candidate.resting:
        why += ", resting"
    return f"{why}, late" if candidate.late else why


def _against(order: Sequence[tuple[Candidate, float]], aim: Aim) -> str:
    """Why the first stands above its aim: what it and the cheapest that was aimed at are expected to cost."""
    first, total = order[0]
    aimed = next((pair for pair in order if pair[0].deployment.tier == aim.tier), None)
    if aimed is None:
        return f", no {aim.tier.name} candidate"
    if aimed[0].resting or aimed[0].late:
        return f", {aim.tier.name} is {'resting' if aimed[0].resting else 'late'}"
    verb = "stays at" if first.warm else "cheaper at"
    return f", {verb} {first.deployment.tier.name}: {total / NUSD_PER_USD:.4g} against {aimed[1] / NUSD_PER_USD:.4g} USD expected"


def moved(plan: Plan, move: str) -> Plan:
    """The plan with the attempts of other tiers first, more capable ones (`escalate`) or cheaper ones, the nearest of
    them before the rest; as it is where there are none."""
    here = plan.attempts[0].deployment.tier
    up = move == "escalate"
    others = [one for one in plan.attempts if (one.deployment.tier > here if up else one.deployment.tier < here)]
    if not others:
        return plan
    others.sort(key=lambda one: abs(one.deployment.tier - here))
    first = structs.replace(others[0], reason=f"{others[0].reason}, {move}d out of a loop")
    return Plan(attempts=(first, *others[1:], *[one for one in plan.attempts if one not in others]), struck=plan.struck)


def close_to_a_limit(facts: Facts, route: Route) -> bool:
    """Whether an exact token count could change which candidates fit: the estimate is near a context that is not the
    route's roomiest."""
    return any(
        deployment.context_tokens < route.roomiest_tokens
        and deployment.context_tokens / _ESTIMATE_ERROR
        < facts.input_tokens
        < deployment.context_tokens * _ESTIMATE_ERROR
        for deployment in route.candidates
    )


def _output_limit(request: Request, deployment: Deployment) -> int:
    """The most output tokens that the request can produce there, all choices together."""
    limit = deployment.output_tokens if request.max_output_tokens is None else request.max_output_tokens
    if deployment.output_tokens_known:
        limit = min(limit, deployment.output_tokens)
    return limit * request.choices


def _candidate(
    deployment: Deployment, route: Route, request: Request, facts: Facts, situation: Situation, signal: str
) -> Candidate:
    stands, load = situation.standing(deployment.name), situation.load(deployment.name)
    green, outlook = situation.green, situation.outlook
    output_max = _output_limit(request, deployment)
    output = min(output_max, situation.typical(deployment.model) * request.choices)
    sheet, model = deployment.sheet, deployment.energy
    speech = speech_at(request, deployment, stands)
    passage = request.passage
    if passage is not None:
        hold = 0 if passage.free else _hold_of_passage(deployment, passage, facts, output_max)
    else:
        hold = _hold(sheet, facts, output_max) if sheet else None
    hold_mj = energy_millijoules_mid(model, facts.input_tokens_max, output_max) if model else None
    warm = min(outlook.warm.get(deployment.name, 0), facts.input_tokens)
    expected_mj = energy_millijoules_mid(model, facts.input_tokens, output, warm) if model and green.weighs else 0
    deadline = situation.deadline_ms
    return Candidate(
        deployment=deployment,
        output_tokens=output,
        output_tokens_max=output_max,
        hold_nusd=hold,
        hold_millijoules=0 if passage is not None and passage.free else hold_mj,
        expected_millijoules=expected_mj,
        expected_micrograms=weighed_micrograms(expected_mj, deployment.intensity, signal) if expected_mj else 0,
        green=green,
        signal=signal,
        deferrable=situation.deferrable,
        roomiest=deployment.context_tokens >= route.roomiest_tokens,
        speech=speech,
        uncarried=None
        if speech == request.dialect and deployment.dialect != "litellm"
        else _uncarried(request, deployment, speech, situation.carrier),
        most=situation.aim.most if situation.aim is not None else None,
        warm=warm > 0,
        load=load,
        late=deadline is not None and load.wait_ms + output * TOKEN_MS > deadline,
        # A named route is tried in its own order, whatever room its provider tells of.
        resting=stands.resting or (load.tight and situation.aim is not None),
        open_seconds=stands.open_seconds,
    )


def speech_at(request: Request, deployment: Deployment, stands: Standing) -> str | None:
    """The dialect in which this request is put to the deployment; None if there is no way."""
    speaks = deployment.speaks
    if request.passage is not None:
        return "passage" if deployment.dialect == request.passage.dialect else None
    if request.dialect in speaks and not stands.missing:
        return request.dialect
    return speech_of(request.dialect, [dialect for dialect in speaks if dialect not in stands.missing])


def _uncarried(request: Request, deployment: Deployment, speech: str | None, carrier: Carrier) -> NotCarriable | None:
    if speech is None or speech == "passage":
        return None
    if speech == request.dialect:
        return carrier.behind_litellm(speech)
    carried = carrier.to(speech, extended=deployment.dialect == "litellm")
    return carried if isinstance(carried, NotCarriable) else None


def _hold(sheet: PriceSheet, facts: Facts, output_max: int) -> int:
    return pricing.worst_case(sheet, facts.input_tokens_max, output_max, long_cache=facts.long_cache)


def _hold_of_passage(deployment: Deployment, passage: Passage, facts: Facts, output_max: int) -> int | None:
    """The most that it can cost there, by tokens or by pieces; None where no price is known."""
    if not passage.metered:
        return None
    held = [_hold(deployment.sheet, facts, output_max)] if deployment.sheet is not None else []
    if passage.pieces is not None and passage.pieces[0] in deployment.unit_prices:
        held.append(deployment.unit_prices[passage.pieces[0]] * passage.pieces[1])
    return max(held, default=None)


def _attempt(candidate: Candidate, why: str, bonds: tuple[Bond, ...]) -> Attempt:
    assert candidate.speech is not None, "a candidate that cannot be spoken to is struck"
    return Attempt(
        deployment=candidate.deployment,
        speech=candidate.speech,
        output_tokens_max=candidate.output_tokens_max,
        hold_nusd=candidate.hold_nusd,
        hold_millijoules=candidate.hold_millijoules,
        reason=f"{why}, bound by {bonds[0].what}" if bonds else why,
    )


def _resting(route: Route, struck: Mapping[str, str], seconds: float) -> Refusal:
    """All that could serve keep failing: said at once, rather than after another timeout."""
    return Refusal(
        code="deployments_resting",
        message=f"Every deployment of '{route.name}' that could serve this is left alone after failures; try again soon.",
        details={"route": route.name, "struck": dict(struck)},
        retry_after_seconds=max(1, math.ceil(seconds)),
        status=503,
    )


def _nobody(route: Route, struck: Mapping[str, str], unfit: Sequence[Candidate]) -> Refusal:
    opens = [one.open_seconds for one in unfit if struck[one.deployment.name] == circuit_breaker.forbids(one)]
    if opens:
        return _resting(route, struck, min(opens))
    uncarried = next((one.uncarried for one in unfit if one.uncarried is not None), None)
    reasons = "; ".join(f"{name}: {why}" for name, why in struck.items())
    return Refusal(
        code="no_eligible_deployment",
        message=f"No deployment of '{route.name}' can take this request ({reasons}).",
        details={"route": route.name, "struck": dict(struck)},
        param=uncarried.param if uncarried is not None else None,
    )
