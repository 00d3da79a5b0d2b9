"""The decision: which deployments are tried for this request, in which order, and what is held for each.

An `auto` route starts at the lowest tier whose ceiling covers the complexity. Within a tier the order is by expected
charge plus the internal carbon price. Behind the choice stand the rest of its tier, the tiers above (nearest first),
and then the tiers below: they are used when an attempt fails, or when a budget cannot hold the ones before.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from msgspec import structs

from ..accounting import pricing
from ..carbon.footprint import energy_millijoules_mid, micrograms_mid
from ..crossing import Carrier, speech_of
from ..errors import NotCarriable
from ..values.catalog import Deployment, Policy, PriceSheet, Route, Tier
from ..values.plan import Attempt, Bond, Facts, Plan, Refusal, Verdict
from ..values.request import Passage, Request
from .health import Standing
from .rules import FORBIDDING, circuit
from .rules.candidate import Candidate

# Length of a usual answer in tokens where the caller sets no limit (median of public agent traces is under 300).
_USUAL_OUTPUT_TOKENS = 300
# Bytes / 4 is within this factor on prose, code and tool output (docs/methodology.md).
_ESTIMATE_ERROR = 1.5
_MICROGRAMS_PER_KG = 1_000_000_000


def decide(
    route: Route,
    request: Request,
    facts: Facts,
    verdict: Verdict,
    policy: Policy,
    standing: Callable[[str], Standing],
    carrier: Carrier,
) -> Plan | Refusal:
    """Order the route's candidates; a Refusal if every one of them is struck."""
    struck: dict[str, str] = {}
    eligible: list[Candidate] = []
    unfit: list[Candidate] = []
    roomiest = route.roomiest_tokens
    for deployment in route.candidates:
        stands = standing(deployment.name)
        candidate = _candidate(deployment, request, facts, policy, roomiest, stands, carrier)
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
    wanted = _wanted_tier(route, verdict, policy)
    price = policy.carbon_nusd_per_kg
    ranked = []
    for place, candidate in enumerate(eligible):
        deployment = candidate.deployment
        distance = _distance(deployment.tier, wanted) if route.auto else place
        ranked.append((candidate.resting, distance, _objective(candidate, price), place))
    ranked.sort()
    return Plan(
        attempts=tuple(
            [
                _attempt(eligible[place], number, wanted, route, verdict, facts.bonds)
                for number, (_, _, _, place) in enumerate(ranked)
            ]
        ),
        struck=struck,
    )


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
    deployment: Deployment,
    request: Request,
    facts: Facts,
    policy: Policy,
    roomiest: int,
    stands: Standing,
    carrier: Carrier,
) -> Candidate:
    output_max = _output_limit(request, deployment)
    output = min(output_max, _USUAL_OUTPUT_TOKENS * request.choices)
    sheet, model = deployment.sheet, deployment.energy
    # Worked out only where something weighs it: most policies put no price on carbon and no cap on a request.
    weighed = policy.carbon_nusd_per_kg or policy.max_request_millijoules is not None
    speech = speech_at(request, deployment, stands)
    passage = request.passage
    if passage is not None:
        hold = 0 if passage.free else _hold_of_passage(deployment, passage, facts, output_max)
    else:
        hold = _hold(sheet, facts, output_max) if sheet else None
    hold_mj = energy_millijoules_mid(model, facts.input_tokens_max, output_max) if model else None
    expected_mj = energy_millijoules_mid(model, facts.input_tokens, output) if model and weighed else 0
    return Candidate(
        deployment=deployment,
        output_tokens_max=output_max,
        hold_nusd=hold,
        hold_millijoules=0 if passage is not None and passage.free else hold_mj,
        expected_nusd=pricing.expected(sheet, facts.input_tokens, output) if sheet else None,
        expected_millijoules=expected_mj,
        expected_micrograms=micrograms_mid(expected_mj, deployment.intensity) if expected_mj else 0,
        millijoules_cap=policy.max_request_millijoules,
        roomiest=deployment.context_tokens >= roomiest,
        speech=speech,
        uncarried=None
        if speech == request.dialect and deployment.dialect != "litellm"
        else _uncarried(request, deployment, speech, carrier),
        resting=stands.resting,
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


def _objective(candidate: Candidate, carbon_nusd_per_kg: int) -> float:
    """Expected charge plus carbon at the internal price, in nUSD; the unpriced stand behind the priced."""
    if candidate.expected_nusd is None:
        return float("inf")
    return candidate.expected_nusd + candidate.expected_micrograms * carbon_nusd_per_kg / _MICROGRAMS_PER_KG


def _wanted_tier(route: Route, verdict: Verdict, policy: Policy) -> Tier:
    if not route.auto:
        return route.candidates[0].tier
    for tier, ceiling in policy.tier_ceilings.items():
        if verdict.complexity <= ceiling:
            return min([one.tier for one in route.candidates if one.tier >= tier], default=route.reference.tier)
    return route.reference.tier


def _distance(tier: Tier, wanted: Tier) -> int:
    """Tiers above come first, nearest first; then those below, nearest first."""
    return tier - wanted if tier >= wanted else len(Tier) + (wanted - tier)


def _attempt(
    candidate: Candidate,
    place: int,
    wanted: Tier,
    route: Route,
    verdict: Verdict,
    bonds: tuple[Bond, ...],
) -> Attempt:
    deployment, speech = candidate.deployment, candidate.speech
    assert speech is not None, "a candidate that cannot be spoken to is struck"
    if not route.auto:
        why = "named" if place == 0 else "fallback"
    elif deployment.tier == wanted:
        why = f"complexity {verdict.complexity:.2f} suits {wanted.name}"
    elif deployment.tier > wanted:
        why = f"above {wanted.name}" if place else f"no {wanted.name} candidate"
    else:
        why = f"below {wanted.name}"
    if candidate.resting:
        why += ", resting"
    if bonds:
        why += f", bound by {bonds[0].what}"
    return Attempt(
        deployment=deployment,
        speech=speech,
        output_tokens_max=candidate.output_tokens_max,
        hold_nusd=candidate.hold_nusd,
        hold_millijoules=candidate.hold_millijoules,
        reason=why,
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
    opens = [one.open_seconds for one in unfit if struck[one.deployment.name] == circuit.forbids(one)]
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
