"""Decides which service tiers, regions and tools of a request reach a deployment, by policy and by price.

A tier that a route or a key refuses ends the request; one that is stripped, or that is dearer than the standard one and
has no price at a deployment, is taken out of what the deployment receives. Nothing is charged at the standard price that
the provider may charge at another.
"""

from collections.abc import Iterable, Mapping

from msgspec import structs

from ..accounting import pricing
from ..values.base import Value
from ..values.catalog import Deployment, PriceSheet
from ..values.plan import Refusal, RequestFeatures
from ..values.request import Request
from ..values.service_tiers import TierPolicy, strictest
from ..values.usage import STANDARD_TERMS, PriceTerms

# Body fields by the tier that they ask for; a tier that is not here may be asked for by either.
_TIER_FIELDS: Mapping[str, tuple[str, ...]] = {
    "fast": ("speed",), "flex": ("service_tier",), "priority": ("service_tier",), "ultrafast": ("service_tier",),
}  # fmt: skip
_ANY_TIER_FIELDS = ("service_tier", "speed")
_GEO_FIELD = "inference_geo"


class AskedTerms(Value, frozen=True, kw_only=True):
    """What reaches a deployment of the terms that a request asks for.

    terms: what it may cost
    stripped_fields: fields of the body that are taken out
    """

    terms: PriceTerms
    stripped_fields: tuple[str, ...] = ()


AS_USUAL = AskedTerms(terms=STANDARD_TERMS)


def worst_case_nusd(
    price_sheet: PriceSheet, features: RequestFeatures, output_tokens_max: int, terms: PriceTerms
) -> int:
    """The worst-case price of a request, nUSD, with the tokens that the provider's tools may add."""
    return pricing.worst_case(
        price_sheet,
        features.input_tokens_max + terms.tool_tokens_max,
        output_tokens_max,
        long_cache=features.writes_long_cache,
        terms=terms,
    )


def refusal(request: Request, policies: Iterable[TierPolicy]) -> Refusal | None:
    """The refusal of a request for a tier or region that a route or a key does not allow, else None."""
    terms = request.price_terms
    for tier in terms.service_tiers:
        if tier and strictest(tuple(policy.action(tier) for policy in policies)) == "refuse":
            field = _TIER_FIELDS.get(tier, _ANY_TIER_FIELDS)[0]
            return _refusal("service_tier_not_allowed", f"Service tier '{tier}'", tier, field)
    geo = terms.inference_geo
    if geo and strictest(tuple(policy.inference_geo for policy in policies)) == "refuse":
        return _refusal("inference_geo_not_allowed", f"Region '{geo}'", geo, _GEO_FIELD)
    return None


def terms_at(
    request: Request, deployment: Deployment, upstream_dialect: str | None, policies: Iterable[TierPolicy]
) -> AskedTerms:
    """What of a request's terms reaches a deployment.

    A translated request asks for no tier, region or tool of the provider: those fields are named as dropped.
    """
    terms = request.price_terms
    if upstream_dialect != request.dialect:
        return AskedTerms(
            terms=PriceTerms(
                has_audio_input=terms.has_audio_input,
                has_audio_output=terms.has_audio_output,
                has_image_output=terms.has_image_output,
            )
        )
    stripped: list[str] = []
    tiers = []
    for tier in terms.service_tiers:
        if tier and _action(tier, deployment, policies) == "strip":
            stripped += _TIER_FIELDS.get(tier, _ANY_TIER_FIELDS)
        else:
            tiers.append(tier)
    geo = terms.inference_geo
    if geo and strictest(tuple(policy.inference_geo for policy in policies)) == "strip":
        geo = ""
        stripped.append(_GEO_FIELD)
    if not stripped:
        return AskedTerms(terms=terms)
    return AskedTerms(
        terms=structs.replace(terms, service_tiers=tuple(tiers), inference_geo=geo),
        stripped_fields=tuple(dict.fromkeys(stripped)),
    )


def usual_terms(terms: PriceTerms) -> PriceTerms:
    """The terms of a usual call: each tool is called once, and no further model."""
    if terms is STANDARD_TERMS:
        return terms
    once = tuple((unit, min(most, 1)) for unit, most in terms.server_tools)
    return structs.replace(terms, server_tools=once, further_calls=())


def added_tokens(terms: PriceTerms, input_tokens_max: int, output_tokens_max: int) -> tuple[int, int]:
    """(input, output) tokens that the provider's tools and calls of the same model may add to the answer's usage."""
    added_input, added_output = terms.tool_tokens_max, 0
    for call in terms.further_calls:
        if not call.model:
            added_input += call.calls_max * (input_tokens_max + terms.tool_tokens_max + output_tokens_max)
            added_output += call.calls_max * (call.output_tokens_max or output_tokens_max)
    return added_input, added_output


def _action(tier: str, deployment: Deployment, policies: Iterable[TierPolicy]) -> str:
    decided = strictest(tuple(policy.action(tier) for policy in policies))
    if decided:
        return decided
    sheet = deployment.price_sheet
    # Without any price there is none to charge by mistake.
    has_price = sheet is None or not pricing.unpriced_terms(sheet, PriceTerms(service_tiers=(tier,)))
    return "allow" if has_price else "strip"


def _refusal(code: str, subject: str, asked: str, field: str) -> Refusal:
    return Refusal(
        code=code,
        message=f"{subject} is not allowed here. Leave '{field}' out, or ask the operator to allow it.",
        details={"asked": asked},
        param=field,
    )
