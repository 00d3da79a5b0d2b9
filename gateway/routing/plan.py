"""The plan: which deployments are tried, in which order, and what each holds.

An `auto` route has a tier target: the lowest tier that suffices (tier_target.py). Candidates at or above it are ordered
by the expected cost of the next stretch of the session (expected_cost.py) plus the internal carbon price, so that a
session stays where its cache is warm as long as that pays. The tiers below follow, nearest first: they serve when an
attempt fails, or when a budget cannot hold those before. Of deployments with equal cost the less busy of two drawn at
random comes first (power of two choices: Mitzenmacher, IEEE TPDS 12 (2001)).
"""

import math
from collections.abc import Callable, Mapping, Sequence

from msgspec import structs

from ..accounting import pricing
from ..accounting.output_estimate import DEFAULT_MEDIAN_TOKENS
from ..carbon.footprint import energy_millijoules_mid, operational_micrograms
from ..dialects.translation import Translator, known_limits, upstream_dialect_of
from ..values.base import Value
from ..values.catalog import Deployment, Route, Tier
from ..values.energy_policy import NO_ENERGY_PREFERENCES, EnergyPreferences
from ..values.errors import NotTranslatable
from ..values.plan import Affinity, Attempt, Plan, Refusal, RequestFeatures
from ..values.request import PassThrough, Request
from ..values.service_tiers import TierPolicy
from ..values.units import JOULES_PER_KWH, NUSD_PER_USD
from ..values.usage import STANDARD_TERMS, PriceTerms
from . import asked_terms
from .asked_terms import AS_USUAL
from .carbon_order import RankedCandidate, put_lowest_carbon_first
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

# Token estimates (bytes / 4) are within this factor on prose, code and tool output (docs/methodology.md).
_ESTIMATE_ERROR_FACTOR = 1.5
_MICROGRAMS_PER_KG, _MILLIJOULES_PER_KWH = 1_000_000_000, JOULES_PER_KWH * 1000
# Candidates of a tier whose expected costs differ by at most this share count as equal (a judgment).
_SAME_COST_SHARE = 0.02
# Assumed ms per output token after the first byte: 50 tokens a second (a judgment).
OUTPUT_TOKEN_MS = 20.0
# Units of paths whose answers report no tokens: a price of tokens says nothing of them.
_UNITS_WITHOUT_TOKENS = ("page", "video_second")


class PlanInputs(Value, frozen=True, kw_only=True):
    """What a plan depends on beside the route and the request.

    energy_policy: the operator's preferences on energy and carbon for this task type
    last_deployment: deployment that served the same kind of request last, "" for none
    deferrable: whether the request may wait
    breaker_state: circuit breaker state of a deployment
    translator: translates the request to other dialects
    tier_target: tier target, None on a route that does not choose a tier
    forecast: what is expected of the session
    usual_output_tokens: usual output tokens of a model, one choice
    load: load of a deployment
    random_draw: uniform in [0, 1), for the choice between equals
    deadline_ms: time left for the response, ms, None for no deadline
    tier_policies: what the route and the key allow of service tiers and regions
    is_lookup: the request is about an object that the deployment has: only its circuit breaker may exclude it
    """

    energy_policy: EnergyPreferences = NO_ENERGY_PREFERENCES
    last_deployment: str = ""
    deferrable: bool = False
    breaker_state: Callable[[str], BreakerState]
    translator: Translator
    tier_target: TierTarget | None = None
    forecast: SessionForecast = NO_FORECAST
    usual_output_tokens: Callable[[str], int] = lambda model: DEFAULT_MEDIAN_TOKENS
    load: Callable[[str], DeploymentLoad] = lambda name: IDLE
    random_draw: float = 0.0
    deadline_ms: float | None = None
    tier_policies: tuple[TierPolicy, ...] = ()
    is_lookup: bool = False


def make_plan(route: Route, request: Request, features: RequestFeatures, inputs: PlanInputs) -> Plan | Refusal:
    """Order the route's candidates; a Refusal if all of them are excluded."""
    if request.price_terms is not STANDARD_TERMS:
        refused = asked_terms.refusal(request, inputs.tier_policies)
        if refused is not None:
            return refused
    excluded: dict[str, str] = {}
    eligible: list[Candidate] = []
    unfit: list[Candidate] = []
    signal = _intensity_signal(route, inputs.energy_policy)
    for deployment in route.candidates:
        candidate = _make_candidate(deployment, route, request, features, inputs, signal)
        for rule in (circuit_breaker.forbids,) if inputs.is_lookup else RULES:
            reason = rule(candidate, features)
            if reason is not None:
                excluded[deployment.name] = reason
                unfit.append(candidate)
                break
        else:
            eligible.append(candidate)
    if not eligible:
        return _no_candidate_refusal(route, excluded, unfit)
    if inputs.tier_target is None:
        return Plan(attempts=_named_route_attempts(eligible, features, inputs), excluded=excluded)
    return Plan(attempts=_auto_route_attempts(eligible, features, inputs, inputs.tier_target), excluded=excluded)


def _intensity_signal(route: Route, green: EnergyPreferences) -> str:
    """The intensity to compare by: "marginal" only if all candidates have one."""
    if green.carbon_signal == "marginal" and all(
        deployment.intensity.marginal_grams_per_kwh is not None
        for deployment in route.candidates
        if deployment.energy_models is not None
    ):
        return "marginal"
    return "average"


def _named_route_attempts(
    eligible: Sequence[Candidate], features: RequestFeatures, inputs: PlanInputs
) -> tuple[Attempt, ...]:
    """The route's own order, deprioritized last, greener first if preferred."""
    order: Sequence[RankedCandidate] = [
        (candidate, 0.0) for candidate in sorted(eligible, key=lambda candidate: candidate.deprioritized)
    ]
    greener = ""
    if inputs.energy_policy.reorders:
        tier = order[0][0].deployment.tier
        same = [pair for pair in order if pair[0].deployment.tier == tier]
        reordered, greener = put_lowest_carbon_first(
            same, inputs.energy_policy, least=tier, chosen=inputs.last_deployment
        )
        order = [*reordered, *[pair for pair in order if pair[0].deployment.tier != tier]]
    return tuple(
        _make_attempt(
            candidate,
            ("fallback" if place else greener or "route order") + ", deprioritized" * candidate.deprioritized,
            features.affinities,
        )
        for place, (candidate, _) in enumerate(order)
    )


def _auto_route_attempts(
    eligible: Sequence[Candidate], features: RequestFeatures, inputs: PlanInputs, target: TierTarget
) -> tuple[Attempt, ...]:
    """The order of an auto route, with the reason of each attempt."""
    totals = [
        total * (1 + HIGHER_TIER_MARGIN) if candidate.deployment.tier > target.tier else total
        for candidate, total in zip(eligible, _expected_costs(eligible, features, inputs), strict=True)
    ]
    # With an unknown price, tiers cannot be compared by cost: the nearest tier comes first, priced candidates ahead.
    all_priced = all(candidate.deployment.price_sheet is not None for candidate in eligible)
    ranked = sorted(
        [
            (
                candidate.deprioritized,
                candidate.misses_deadline,
                _tiers_below(candidate.deployment.tier, target.tier),
                0 if all_priced else candidate.deployment.tier,
                total,
                place,
            )
            for place, (candidate, total) in enumerate(zip(eligible, totals, strict=True))
        ]
    )
    order = _less_busy_first([(eligible[rank[-1]], rank[-2]) for rank in ranked], inputs)
    greener = ""
    if inputs.energy_policy.reorders:
        order, greener = put_lowest_carbon_first(
            order, inputs.energy_policy, least=target.tier, chosen=inputs.last_deployment
        )
    first = order[0][0].deployment
    attempts = []
    for number, (candidate, _) in enumerate(order):
        reason = _reason(candidate, target, first=number == 0)
        if number == 0 and greener:
            reason += f", {greener}"
        elif number == 0 and first.tier > target.tier:
            reason += _higher_tier_reason(order, target)
        attempts.append(_make_attempt(candidate, reason, features.affinities))
    return tuple(attempts)


def _expected_costs(eligible: Sequence[Candidate], features: RequestFeatures, inputs: PlanInputs) -> list[float]:
    """Expected cost of each candidate over the next stretch of the session, nUSD.

    Carbon and energy count at their internal price.
    """
    forecast, green = inputs.forecast, inputs.energy_policy
    priced = green.carbon_nusd_per_kg or green.energy_nusd_per_kwh
    cost_inputs = [_cost_inputs(candidate, forecast) for candidate in eligible]
    calls = calls_until_escalation(forecast)[0] if priced else 0.0
    # An unknown footprint counts as the highest known one: it must not win by being unknown.
    highest = max((_energy_carbon_nusd(candidate, green) for candidate in eligible), default=0.0) if priced else 0.0
    totals = []
    for candidate, own in zip(eligible, cost_inputs, strict=True):
        if own is None:
            totals.append(math.inf)
            continue
        above = [
            other
            for higher, other in zip(eligible, cost_inputs, strict=True)
            if other is not None and higher.deployment.tier > candidate.deployment.tier
        ]
        total = expected_cost_nusd(own, above, features.input_tokens, forecast)
        unknown = candidate.deployment.energy_models is None
        totals.append(total + calls * (highest if unknown else _energy_carbon_nusd(candidate, green)))
    return totals


def _energy_carbon_nusd(candidate: Candidate, green: EnergyPreferences) -> float:
    """A call's energy and carbon at their internal price, nUSD; 0 if unknown."""
    carbon = candidate.expected_micrograms * green.carbon_nusd_per_kg / _MICROGRAMS_PER_KG
    return carbon + candidate.expected_millijoules * green.energy_nusd_per_kwh / _MILLIJOULES_PER_KWH


def _cost_inputs(candidate: Candidate, forecast: SessionForecast) -> CostInputs | None:
    price_sheet = candidate.deployment.price_sheet
    if price_sheet is None:
        return None
    return CostInputs(
        sheet=price_sheet,
        output_tokens=candidate.output_tokens,
        warm_tokens=forecast.warm_tokens.get(candidate.deployment.name, 0),
        failure_rate=candidate.load.failure_rate,
    )


def _less_busy_first(order: list[tuple[Candidate, float]], inputs: PlanInputs) -> list[tuple[Candidate, float]]:
    """The order with the less busy of two equally cheap candidates first.

    The two are drawn at random from those of equal cost.
    """
    first, total = order[0]
    if first.cache_warm:
        return order
    equals = [
        place
        for place, (candidate, cost) in enumerate(order)
        if candidate.deployment.tier == first.deployment.tier
        and candidate.deprioritized == first.deprioritized
        and candidate.misses_deadline == first.misses_deadline
        and not candidate.cache_warm
        and (cost == total or abs(cost - total) <= _SAME_COST_SHARE * total)
    ]
    if len(equals) < 2:
        return order
    drawn = int(inputs.random_draw * len(equals) * (len(equals) - 1))
    one, other = divmod(drawn, len(equals) - 1)
    pair = equals[one], equals[other if other < one else other + 1]
    best = min(pair, key=lambda place: (order[place][0].load.rate_limited, order[place][0].load.effective_ms))
    return [order[best], *order[:best], *order[best + 1 :]]


def _tiers_below(tier: Tier, target: Tier) -> int:
    """How far a tier is below the target, 0 at or above it."""
    return max(0, target - tier)


def _reason(candidate: Candidate, target: TierTarget, *, first: bool) -> str:
    tier = candidate.deployment.tier
    if tier == target.tier:
        reason = target.reason
    elif tier < target.tier:
        reason = f"below {target.tier.name}"
    else:
        reason = target.reason if first else f"above {target.tier.name}"
    if candidate.deprioritized:
        reason += ", deprioritized"
    return f"{reason}, would miss the deadline" if candidate.misses_deadline else reason


def _higher_tier_reason(order: Sequence[tuple[Candidate, float]], target: TierTarget) -> str:
    """Why the first is above its tier target, with both expected costs."""
    first, total = order[0]
    best = next((pair for pair in order if pair[0].deployment.tier == target.tier), None)
    if best is None:
        return f", no {target.tier.name} candidate"
    if best[0].deprioritized:
        return f", {target.tier.name} deprioritized"
    if best[0].misses_deadline:
        return f", {target.tier.name} would miss the deadline"
    cause = "warm cache at" if first.cache_warm else "cheaper at"
    costs = f"{total / NUSD_PER_USD:.4g} vs {best[1] / NUSD_PER_USD:.4g} USD"
    return f", {cause} {first.deployment.tier.name}: {costs} expected"


def prefer_other_tier(plan: Plan, move: str) -> Plan:
    """The plan with higher-tier (`move` is "escalate") or lower-tier attempts first.

    The nearest tier comes first; the plan is unchanged if there is no such attempt.
    """
    tier = plan.attempts[0].deployment.tier
    up = move == "escalate"
    others = [
        attempt
        for attempt in plan.attempts
        if (attempt.deployment.tier > tier if up else attempt.deployment.tier < tier)
    ]
    if not others:
        return plan
    others.sort(key=lambda attempt: abs(attempt.deployment.tier - tier))
    first = structs.replace(others[0], reason=f"{others[0].reason}, {move}d by the loop guard")
    return Plan(
        attempts=(first, *others[1:], *[attempt for attempt in plan.attempts if attempt not in others]),
        excluded=plan.excluded,
    )


def near_context_limit(features: RequestFeatures, route: Route) -> bool:
    """Whether an exact token count could change which candidates fit.

    That is, whether the estimate is near a context length other than the route's longest.
    """
    return any(
        deployment.context_tokens_max < route.context_tokens_max
        and deployment.context_tokens_max / _ESTIMATE_ERROR_FACTOR
        < features.input_tokens
        < deployment.context_tokens_max * _ESTIMATE_ERROR_FACTOR
        for deployment in route.candidates
    )


def _output_tokens_max(request: Request, deployment: Deployment) -> int:
    """Most output tokens of the request at a deployment, all choices together."""
    limit = deployment.output_tokens_max if request.max_output_tokens is None else request.max_output_tokens
    if deployment.output_limit_is_known:
        limit = min(limit, deployment.output_tokens_max)
    return limit * request.choice_count


def _make_candidate(
    deployment: Deployment,
    route: Route,
    request: Request,
    features: RequestFeatures,
    inputs: PlanInputs,
    signal: str,
) -> Candidate:
    breaker_state, load = inputs.breaker_state(deployment.name), inputs.load(deployment.name)
    green, forecast = inputs.energy_policy, inputs.forecast
    output_max = _output_tokens_max(request, deployment)
    output = min(output_max, inputs.usual_output_tokens(deployment.model) * request.choice_count)
    price_sheet, model = deployment.price_sheet, deployment.energy_models
    upstream_dialect = upstream_dialect_at(request, deployment, breaker_state)
    passthrough = request.passthrough
    asked, unpriced, added = AS_USUAL, "", (0, 0)
    if request.price_terms is not STANDARD_TERMS:
        asked = asked_terms.terms_at(request, deployment, upstream_dialect, inputs.tier_policies)
        added = asked_terms.added_tokens(asked.terms, features.input_tokens_max, output_max)
        unpriced = _unpriced_terms(deployment, asked.terms)
    if passthrough is not None and passthrough.is_free:
        hold: int | None = 0
    elif unpriced:
        hold = None
    elif passthrough is not None:
        hold = _passthrough_hold_nusd(deployment, passthrough, features, output_max, asked.terms)
    else:
        hold = asked_terms.worst_case_nusd(price_sheet, features, output_max, asked.terms) if price_sheet else None
    if hold is None and not unpriced:
        unpriced = _no_price(deployment, passthrough)
    hold_mj = (
        energy_millijoules_mid(model, features.input_tokens_max + added[0], output_max + added[1]) if model else None
    )
    warm = min(forecast.warm_tokens.get(deployment.name, 0), features.input_tokens)
    expected_mj = (
        energy_millijoules_mid(model, features.input_tokens, output, warm)
        if model and green.needs_expected_energy
        else 0
    )
    deadline = inputs.deadline_ms
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
        deferrable=inputs.deferrable,
        longest_context=deployment.context_tokens_max >= route.context_tokens_max,
        upstream_dialect=upstream_dialect,
        not_translatable=None
        if upstream_dialect == request.dialect and deployment.dialect != "litellm"
        else _not_translatable(request, deployment, upstream_dialect, inputs.translator),
        tier_max=inputs.tier_target.tier_max if inputs.tier_target is not None else None,
        cache_warm=warm > 0,
        load=load,
        misses_deadline=deadline is not None and load.first_byte_ms + output * OUTPUT_TOKEN_MS > deadline,
        # Rate limits reorder auto routes only.
        deprioritized=breaker_state.deprioritized or (load.rate_limited and inputs.tier_target is not None),
        circuit_open_seconds=breaker_state.open_seconds,
        asked=asked,
        added_tokens=added,
        unpriced=unpriced,
    )


def upstream_dialect_at(request: Request, deployment: Deployment, breaker_state: BreakerState) -> str | None:
    """The dialect of the call to a deployment; None if it supports none that fits."""
    dialects = deployment.dialects
    if request.passthrough is not None:
        return "passthrough" if deployment.dialect == request.passthrough.dialect else None
    if request.dialect in dialects and not breaker_state.missing_dialects:
        return request.dialect
    return upstream_dialect_of(
        request.dialect, [dialect for dialect in dialects if dialect not in breaker_state.missing_dialects]
    )


def _not_translatable(
    request: Request, deployment: Deployment, upstream_dialect: str | None, translator: Translator
) -> NotTranslatable | None:
    if upstream_dialect is None or upstream_dialect == "passthrough":
        return None
    if upstream_dialect == request.dialect:
        return translator.litellm_refusal(upstream_dialect)
    translated = translator.translate(upstream_dialect, extended=deployment.dialect == "litellm")
    if isinstance(translated, NotTranslatable):
        return translated
    return known_limits.refusal_of(translated.document, upstream_dialect, deployment)


def _unpriced_terms(deployment: Deployment, terms: PriceTerms) -> str:
    """What the request asks for that has no price at a deployment with prices, "" for nothing."""
    names = pricing.unpriced_terms(deployment.price_sheet, terms) if deployment.price_sheet is not None else ()
    return f"no price of {', '.join(names)} at '{deployment.name}'" if names else ""


def _no_price(deployment: Deployment, passthrough: PassThrough | None) -> str:
    if passthrough is not None and not passthrough.reports_usage:
        path = passthrough.path.partition("?")[0]
        return f"the cost of {passthrough.method} /v1{path} is not known when it ends"
    unit = (
        passthrough.billed_units_max[0].partition(":")[0].replace("_", " ")
        if passthrough is not None and passthrough.billed_units_max
        else ""
    )
    by_unit = f" by the {unit}" if unit else ""
    return f"no price of model '{deployment.model}' at '{deployment.name}'{by_unit}"


def _passthrough_hold_nusd(
    deployment: Deployment, passthrough: PassThrough, features: RequestFeatures, output_max: int, terms: PriceTerms
) -> int | None:
    """Worst-case price of a pass-through request, nUSD; None if unpriced."""
    if not passthrough.reports_usage:
        return None
    unit, most = passthrough.billed_units_max or ("", 0)
    holds = []
    if deployment.price_sheet is not None and not unit.startswith(_UNITS_WITHOUT_TOKENS):
        holds.append(asked_terms.worst_case_nusd(deployment.price_sheet, features, output_max, terms))
    if unit:
        price = pricing.unit_nusd_max(deployment.unit_prices, unit)
        if price is not None:
            holds.append(price * most)
    return max(holds, default=None)


def _make_attempt(candidate: Candidate, reason: str, affinities: tuple[Affinity, ...]) -> Attempt:
    assert candidate.upstream_dialect is not None, "a candidate without a dialect is excluded"
    return Attempt(
        deployment=candidate.deployment,
        upstream_dialect=candidate.upstream_dialect,
        output_tokens_max=candidate.output_tokens_max,
        hold_nusd=candidate.hold_nusd,
        hold_millijoules=candidate.hold_millijoules,
        reason=f"{reason}, affinity: {affinities[0].cause}" if affinities else reason,
        price_terms=candidate.asked.terms,
        added_tokens=candidate.added_tokens,
        unpriced=candidate.unpriced,
        stripped_fields=candidate.asked.stripped_fields,
    )


def _circuits_open_refusal(route: Route, excluded: Mapping[str, str], seconds: float) -> Refusal:
    """Refusal without another timeout: all capable deployments keep failing."""
    return Refusal(
        code="circuit_breaker_open",
        message=f"Circuit breakers open for every deployment of '{route.name}' that could serve this request, "
        "after repeated failures; retry shortly.",
        details={"route": route.name, "excluded": dict(excluded)},
        retry_after_seconds=max(1, math.ceil(seconds)),
        status=503,
    )


def _no_candidate_refusal(route: Route, excluded: Mapping[str, str], unfit: Sequence[Candidate]) -> Refusal:
    open_seconds = [
        candidate.circuit_open_seconds
        for candidate in unfit
        if excluded[candidate.deployment.name] == circuit_breaker.forbids(candidate)
    ]
    if open_seconds:
        return _circuits_open_refusal(route, excluded, min(open_seconds))
    not_translatable = next(
        (candidate.not_translatable for candidate in unfit if candidate.not_translatable is not None), None
    )
    reasons = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in excluded.items())
    return Refusal(
        code="no_eligible_deployment",
        message=f"No deployment of '{route.name}' can serve this request ({reasons}).",
        details={"route": route.name, "excluded": dict(excluded)},
        param=not_translatable.param if not_translatable is not None else None,
    )
