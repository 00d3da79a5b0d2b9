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
from ..accounting.output_estimate import DEFAULT_MEDIAN_TOKENS
from ..carbon.footprint import energy_millijoules_mid, operational_micrograms
from ..dialects.translation import Translator, upstream_dialect_of
from ..values.base import Value
from ..values.catalog import Deployment, PriceSheet, Route, Tier
from ..values.energy_policy import NO_ENERGY_PREFERENCES, EnergyPreferences
from ..values.errors import NotTranslatable
from ..values.plan import Affinity, Attempt, Plan, Refusal, RequestFeatures
from ..values.request import PassThrough, Request
from ..values.units import JOULES_PER_KWH, NUSD_PER_USD
from .carbon_order import RankedCandidate, put_greenest_first
from .circuit_breaker import BreakerState
from .deployment_load import IDLE, DeploymentLoad
from .expected_cost import (
    HIGHER_TIER_MARGIN,
    NO_FORECAST,
    CostInputs,
    SessionForecast,
    calls_until_escalation,
    expected_cost_nusd,
)
from .rules import RULES, circuit_breaker
from .rules.candidate import Candidate
from .tier_target import TierTarget

# Bytes / 4 is within this factor on prose, code and tool output (docs/methodology.md).
_ESTIMATE_ERROR_FACTOR = 1.5
_MICROGRAMS_PER_KG, _MILLIJOULES_PER_KWH = 1_000_000_000, JOULES_PER_KWH * 1000
# Candidates of a tier whose totals differ by a smaller share (a judgement) are the same to an operator: the less busy one is taken.
_SAME_COST_SHARE = 0.02
# Of an answer after its first byte, ms per token, where only the first byte's wait is known: a judgement, 50 tokens a second.
OUTPUT_TOKEN_MS = 20.0


class PlanInputs(Value, frozen=True, kw_only=True):
    """What a decision takes into account beside the request. `aim` is None where the route leaves no choice.

    `typical` gives the usual output tokens of a model (one choice), `standing` and `load` how a deployment stands;
    `toss` in [0, 1) is for draws between equals. `deadline_ms`: the answer is wanted by then. `green` is what energy and
    carbon weigh for this kind of work, `chosen` the deployment that the same kind went to last; `deferrable`: it can wait.
    """

    energy_policy: EnergyPreferences = NO_ENERGY_PREFERENCES
    last_deployment: str = ""
    deferrable: bool = False
    breaker_state: Callable[[str], BreakerState]
    translator: Translator
    aim: TierTarget | None = None
    forecast: SessionForecast = NO_FORECAST
    usual_output_tokens: Callable[[str], int] = lambda model: DEFAULT_MEDIAN_TOKENS
    load: Callable[[str], DeploymentLoad] = lambda name: IDLE
    random_draw: float = 0.0
    deadline_ms: float | None = None


def make_plan(route: Route, request: Request, features: RequestFeatures, situation: PlanInputs) -> Plan | Refusal:
    """Order the route's candidates; a Refusal if every one of them is struck."""
    struck: dict[str, str] = {}
    eligible: list[Candidate] = []
    unfit: list[Candidate] = []
    signal = _intensity_signal(route, situation.energy_policy)
    for deployment in route.candidates:
        candidate = _make_candidate(deployment, route, request, features, situation, signal)
        for rule in RULES:
            reason = rule(candidate, features)
            if reason is not None:
                struck[deployment.name] = reason
                unfit.append(candidate)
                break
        else:
            eligible.append(candidate)
    if not eligible:
        return _no_candidate_refusal(route, struck, unfit)
    if situation.aim is None:
        return Plan(attempts=_named_route_attempts(eligible, features, situation), excluded=struck)
    return Plan(attempts=_auto_route_attempts(eligible, features, situation, situation.aim), excluded=struck)


def _intensity_signal(route: Route, green: EnergyPreferences) -> str:
    """By which intensity candidates are compared: a marginal one is not to be weighed against an average."""
    if green.carbon_signal == "marginal" and all(
        one.intensity.marginal_grams_per_kwh is not None for one in route.candidates if one.energy_models is not None
    ):
        return "marginal"
    return "average"


def _named_route_attempts(
    eligible: Sequence[Candidate], features: RequestFeatures, situation: PlanInputs
) -> tuple[Attempt, ...]:
    """The order of the file, but for what rests; where the operator asks for it, the greener of the first's tier first."""
    order: Sequence[RankedCandidate] = [(one, 0.0) for one in sorted(eligible, key=lambda one: one.deprioritized)]
    why = ""
    if situation.energy_policy.reorders:
        tier = order[0][0].deployment.tier
        same = [pair for pair in order if pair[0].deployment.tier == tier]
        moved, why = put_greenest_first(same, situation.energy_policy, least=tier, chosen=situation.last_deployment)
        order = [*moved, *[pair for pair in order if pair[0].deployment.tier != tier]]
    return tuple(
        _make_attempt(
            one, (("fallback" if place else why or "named") + ", resting" * one.deprioritized), features.bonds
        )
        for place, (one, _) in enumerate(order)
    )


def _auto_route_attempts(
    eligible: Sequence[Candidate], features: RequestFeatures, situation: PlanInputs, target: TierTarget
) -> tuple[Attempt, ...]:
    """The order of an auto route, and why each stands where it does."""
    totals = [
        total * (1 + HIGHER_TIER_MARGIN) if one.deployment.tier > target.tier else total
        for one, total in zip(eligible, _expected_costs(eligible, features, situation), strict=True)
    ]
    # Without every price tiers cannot be compared: the nearest comes first, and in it what has a price.
    compared = all(one.deployment.price_sheet is not None for one in eligible)
    ranked = sorted(
        [(one.deprioritized, one.misses_deadline, _tiers_below(one.deployment.tier, target.tier), 0 if compared else one.deployment.tier, total, place)
         for place, (one, total) in enumerate(zip(eligible, totals, strict=True))]
    )  # fmt: skip
    order = _less_busy_first([(eligible[rank[-1]], rank[-2]) for rank in ranked], situation)
    green = ""
    if situation.energy_policy.reorders:
        order, green = put_greenest_first(
            order, situation.energy_policy, least=target.tier, chosen=situation.last_deployment
        )
    first = order[0][0].deployment
    attempts = []
    for number, (candidate, _) in enumerate(order):
        why = _reason(candidate, target, first=number == 0)
        if number == 0 and green:
            why += f", {green}"
        elif number == 0 and first.tier > target.tier:
            why += _higher_tier_reason(order, target)
        attempts.append(_make_attempt(candidate, why, features.bonds))
    return tuple(attempts)


def _expected_costs(eligible: Sequence[Candidate], features: RequestFeatures, situation: PlanInputs) -> list[float]:
    """What the next stretch of the session is expected to cost with each, in nUSD with carbon and energy at their price."""
    outlook, green = situation.forecast, situation.energy_policy
    priced = green.carbon_nusd_per_kg or green.energy_nusd_per_kwh
    stakes, calls = (
        [_cost_inputs(one, outlook) for one in eligible],
        calls_until_escalation(outlook)[0] if priced else 0.0,
    )
    # What is not known counts as the most that is: it must not win by that.
    dearest = max((_energy_carbon_nusd(one, green) for one in eligible), default=0.0) if priced else 0.0
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
        total = expected_cost_nusd(stake, above, features.input_tokens, outlook)
        found.append(
            total + calls * (dearest if one.deployment.energy_models is None else _energy_carbon_nusd(one, green))
        )
    return found


def _energy_carbon_nusd(one: Candidate, green: EnergyPreferences) -> float:
    """What a call's energy and carbon are worth, in nUSD; 0 where neither has a price, or nothing is known."""
    carbon = one.expected_micrograms * green.carbon_nusd_per_kg / _MICROGRAMS_PER_KG
    return carbon + one.expected_millijoules * green.energy_nusd_per_kwh / _MILLIJOULES_PER_KWH


def _cost_inputs(candidate: Candidate, outlook: SessionForecast) -> CostInputs | None:
    price_sheet = candidate.deployment.price_sheet
    if price_sheet is None:
        return None
    return CostInputs(
        sheet=price_sheet,
        output_tokens=candidate.output_tokens,
        warm_tokens=outlook.warm_tokens.get(candidate.deployment.name, 0),
        failure_rate=candidate.load.failure_rate,
    )


def _less_busy_first(order: list[tuple[Candidate, float]], situation: PlanInputs) -> list[tuple[Candidate, float]]:
    """The order with the less busy of two equals first, drawn at random from all that cost the same as the first."""
    first, total = order[0]
    if first.cache_warm:
        return order
    equals = [
        place
        for place, (one, other) in enumerate(order)
        if one.deployment.tier == first.deployment.tier
        and one.deprioritized == first.deprioritized
        and one.misses_deadline == first.misses_deadline
        and not one.cache_warm
        and (other == total or abs(other - total) <= _SAME_COST_SHARE * total)
    ]
    if len(equals) < 2:
        return order
    drawn = int(situation.random_draw * len(equals) * (len(equals) - 1))
    one, other = divmod(drawn, len(equals) - 1)
    pair = equals[one], equals[other if other < one else other + 1]
    best = min(pair, key=lambda place: (order[place][0].load.rate_limited, order[place][0].load.effective_ms))
    return [order[best], *order[:best], *order[best + 1 :]]


def _tiers_below(tier: Tier, aimed: Tier) -> int:
    """0 for what will do; tiers below come after that, nearest first."""
    return max(0, aimed - tier)


def _reason(candidate: Candidate, target: TierTarget, *, first: bool) -> str:
    tier = candidate.deployment.tier
    if tier == target.tier:
        why = target.reason
    elif tier < target.tier:
        why = f"below {target.tier.name}"
    else:
        why = target.reason if first else f"above {target.tier.name}"
    if candidate.deprioritized:
        why += ", resting"
    return f"{why}, late" if candidate.misses_deadline else why


def _higher_tier_reason(order: Sequence[tuple[Candidate, float]], target: TierTarget) -> str:
    """Why the first stands above its aim: what it and the cheapest that was aimed at are expected to cost."""
    first, total = order[0]
    aimed = next((pair for pair in order if pair[0].deployment.tier == target.tier), None)
    if aimed is None:
        return f", no {target.tier.name} candidate"
    if aimed[0].deprioritized or aimed[0].misses_deadline:
        return f", {target.tier.name} is {'resting' if aimed[0].deprioritized else 'late'}"
    verb = "stays at" if first.cache_warm else "cheaper at"
    return f", {verb} {first.deployment.tier.name}: {total / NUSD_PER_USD:.4g} against {aimed[1] / NUSD_PER_USD:.4g} USD expected"


def prefer_other_tier(plan: Plan, move: str) -> Plan:
    """The plan with the attempts of other tiers first, more capable ones (`escalate`) or cheaper ones, the nearest of
    them before the rest; as it is where there are none."""
    here = plan.attempts[0].deployment.tier
    up = move == "escalate"
    others = [one for one in plan.attempts if (one.deployment.tier > here if up else one.deployment.tier < here)]
    if not others:
        return plan
    others.sort(key=lambda one: abs(one.deployment.tier - here))
    first = structs.replace(others[0], reason=f"{others[0].reason}, {move}d out of a loop")
    return Plan(
        attempts=(first, *others[1:], *[one for one in plan.attempts if one not in others]), excluded=plan.excluded
    )


def near_context_limit(features: RequestFeatures, route: Route) -> bool:
    """Whether an exact token count could change which candidates fit: the estimate is near a context that is not the
    route's roomiest."""
    return any(
        deployment.context_tokens_max < route.context_tokens_max
        and deployment.context_tokens_max / _ESTIMATE_ERROR_FACTOR
        < features.input_tokens
        < deployment.context_tokens_max * _ESTIMATE_ERROR_FACTOR
        for deployment in route.candidates
    )


def _output_tokens_max(request: Request, deployment: Deployment) -> int:
    """The most output tokens that the request can produce there, all choices together."""
    limit = deployment.output_tokens_max if request.max_output_tokens is None else request.max_output_tokens
    if deployment.output_limit_is_known:
        limit = min(limit, deployment.output_tokens_max)
    return limit * request.choice_count


def _make_candidate(
    deployment: Deployment,
    route: Route,
    request: Request,
    features: RequestFeatures,
    situation: PlanInputs,
    signal: str,
) -> Candidate:
    stands, load = situation.breaker_state(deployment.name), situation.load(deployment.name)
    green, outlook = situation.energy_policy, situation.forecast
    output_max = _output_tokens_max(request, deployment)
    output = min(output_max, situation.usual_output_tokens(deployment.model) * request.choice_count)
    price_sheet, model = deployment.price_sheet, deployment.energy_models
    speech = upstream_dialect_at(request, deployment, stands)
    passthrough = request.passthrough
    if passthrough is not None:
        hold = 0 if passthrough.is_free else _passthrough_hold_nusd(deployment, passthrough, features, output_max)
    else:
        hold = _hold_nusd(price_sheet, features, output_max) if price_sheet else None
    hold_mj = energy_millijoules_mid(model, features.input_tokens_max, output_max) if model else None
    warm = min(outlook.warm_tokens.get(deployment.name, 0), features.input_tokens)
    expected_mj = (
        energy_millijoules_mid(model, features.input_tokens, output, warm)
        if model and green.needs_expected_energy
        else 0
    )
    deadline = situation.deadline_ms
    return Candidate(
        deployment=deployment,
        output_tokens=output,
        output_tokens_max=output_max,
        hold_nusd=hold,
        hold_millijoules=0 if passthrough is not None and passthrough.is_free else hold_mj,
        expected_millijoules=expected_mj,
        expected_micrograms=operational_micrograms(expected_mj, deployment.intensity, signal) if expected_mj else 0,
        energy_policy=green,
        intensity_signal=signal,
        deferrable=situation.deferrable,
        longest_context=deployment.context_tokens_max >= route.context_tokens_max,
        upstream_dialect=speech,
        not_translatable=None
        if speech == request.dialect and deployment.dialect != "litellm"
        else _not_translatable(request, deployment, speech, situation.translator),
        tier_max=situation.aim.tier_max if situation.aim is not None else None,
        cache_warm=warm > 0,
        load=load,
        misses_deadline=deadline is not None and load.first_byte_ms + output * OUTPUT_TOKEN_MS > deadline,
        # A named route is tried in its own order, whatever room its provider tells of.
        deprioritized=stands.deprioritized or (load.rate_limited and situation.aim is not None),
        circuit_open_seconds=stands.open_seconds,
    )


def upstream_dialect_at(request: Request, deployment: Deployment, stands: BreakerState) -> str | None:
    """The dialect in which this request is put to the deployment; None if there is no way."""
    speaks = deployment.dialects
    if request.passthrough is not None:
        return "passage" if deployment.dialect == request.passthrough.dialect else None
    if request.dialect in speaks and not stands.missing_dialects:
        return request.dialect
    return upstream_dialect_of(
        request.dialect, [dialect for dialect in speaks if dialect not in stands.missing_dialects]
    )


def _not_translatable(
    request: Request, deployment: Deployment, speech: str | None, translator: Translator
) -> NotTranslatable | None:
    if speech is None or speech == "passage":
        return None
    if speech == request.dialect:
        return translator.litellm_refusal(speech)
    translated = translator.translate(speech, extended=deployment.dialect == "litellm")
    return translated if isinstance(translated, NotTranslatable) else None


def _hold_nusd(price_sheet: PriceSheet, features: RequestFeatures, output_max: int) -> int:
    return pricing.worst_case(price_sheet, features.input_tokens_max, output_max, long_cache=features.writes_long_cache)


def _passthrough_hold_nusd(
    deployment: Deployment, passthrough: PassThrough, features: RequestFeatures, output_max: int
) -> int | None:
    """The most that it can cost there, by tokens or by pieces; None where no price is known."""
    if not passthrough.reports_usage:
        return None
    held = [_hold_nusd(deployment.price_sheet, features, output_max)] if deployment.price_sheet is not None else []
    if passthrough.pieces_max is not None and passthrough.pieces_max[0] in deployment.unit_prices:
        held.append(deployment.unit_prices[passthrough.pieces_max[0]] * passthrough.pieces_max[1])
    return max(held, default=None)


def _make_attempt(candidate: Candidate, why: str, affinities: tuple[Affinity, ...]) -> Attempt:
    assert candidate.upstream_dialect is not None, "a candidate that cannot be spoken to is struck"
    return Attempt(
        deployment=candidate.deployment,
        upstream_dialect=candidate.upstream_dialect,
        output_tokens_max=candidate.output_tokens_max,
        hold_nusd=candidate.hold_nusd,
        hold_millijoules=candidate.hold_millijoules,
        reason=f"{why}, bound by {affinities[0].cause}" if affinities else why,
    )


def _circuits_open_refusal(route: Route, struck: Mapping[str, str], seconds: float) -> Refusal:
    """All that could serve keep failing: said at once, rather than after another timeout."""
    return Refusal(
        code="deployments_resting",
        message=f"Every deployment of '{route.name}' that could serve this is left alone after failures; try again soon.",
        details={"route": route.name, "struck": dict(struck)},
        retry_after_seconds=max(1, math.ceil(seconds)),
        status=503,
    )


def _no_candidate_refusal(route: Route, struck: Mapping[str, str], unfit: Sequence[Candidate]) -> Refusal:
    opens = [one.circuit_open_seconds for one in unfit if struck[one.deployment.name] == circuit_breaker.forbids(one)]
    if opens:
        return _circuits_open_refusal(route, struck, min(opens))
    uncarried = next((one.not_translatable for one in unfit if one.not_translatable is not None), None)
    reasons = "; ".join(f"{name}: {why}" for name, why in struck.items())
    return Refusal(
        code="no_eligible_deployment",
        message=f"No deployment of '{route.name}' can take this request ({reasons}).",
        details={"route": route.name, "struck": dict(struck)},
        param=uncarried.param if uncarried is not None else None,
    )
