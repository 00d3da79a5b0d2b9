"""Deployments without a price or a model size: notes, and problems where a budget would refuse every call to them."""

from collections.abc import Iterable, Mapping

from ..accounting import pricing
from ..values.budget import MEASURE_UNITS, Budget, Measure, SessionCaps
from ..values.catalog import Deployment, Route
from ..values.quality import SHADOW_KEY
from ..values.service_tiers import ANY_TIER
from ..values.usage import PriceTerms
from .reader import ConfigReader
from .yaml_tree import YamlPath


def check_unknown_costs(
    reader: ConfigReader,
    deployments: Mapping[str, Deployment],
    routes: Mapping[str, Route],
    budgets: Iterable[Budget],
    caps: Iterable[SessionCaps],
) -> None:
    """Note each deployment whose cost is unknown in money or energy, with the budget that refuses its calls."""
    cap_budgets = [budget for each in caps for budget in (*each.tree_budgets, *each.session_budgets)]
    limits = [*budgets, *cap_budgets]
    for name, deployment in deployments.items():
        path: YamlPath = ("deployments", name)
        names = {
            route.name for route in routes.values() if any(candidate.name == name for candidate in route.candidates)
        }
        if deployment.price_sheet is None and not deployment.unit_prices:
            fact = f"deployment '{name}' has no known price; its calls are unpriced, and"
            if budget := _refusing_budget(deployment, names, limits, (Measure.nusd,)):
                reader.add_refusal(path, f"{fact} budget '{budget.name}' (USD) refuses every one; set 'price'")
            else:
                reader.add_note(path, f"{fact} no budget in USD admits it (set 'price')")
        if deployment.energy_models is None:
            fact = f"deployment '{name}' has no energy profile; its footprint is unknown, and"
            remedy = "set 'energy.active_params_b'"
            if budget := _refusing_budget(deployment, names, limits, (Measure.millijoules, Measure.micrograms)):
                unit = MEASURE_UNITS[budget.measure][0]
                reader.add_refusal(path, f"{fact} budget '{budget.name}' ({unit}) refuses every call; {remedy}")
            else:
                reader.add_note(path, f"{fact} no budget in Wh or gCO2e admits it ({remedy})")
    for route in routes.values():
        _note_unpriced_tiers(reader, route)


def _note_unpriced_tiers(reader: ConfigReader, route: Route) -> None:
    """Note each service tier that a route allows although a candidate has no price for it."""
    for tier, action in route.tier_policy.actions.items():
        terms = PriceTerms(service_tiers=(tier,))
        for deployment in route.candidates if action == "allow" and tier != ANY_TIER else ():
            if deployment.price_sheet is not None and pricing.unpriced_terms(deployment.price_sheet, terms):
                reader.add_note(
                    ("routes", route.name, "service_tiers", tier),
                    f"service tier '{tier}' has no price at deployment '{deployment.name}'; requests that ask for it are "
                    "unpriced there, and no budget in USD admits them",
                )


def _refusing_budget(
    deployment: Deployment, routes: set[str], limits: Iterable[Budget], measures: tuple[Measure, ...]
) -> Budget | None:
    """The first budget that a call to the deployment meets in one of these measures."""
    values = {
        "deployment": {deployment.name},
        "model": {deployment.model},
        "tier": {deployment.tier.name},
        "provider": {deployment.provider},
        "route": routes,
    }
    for budget in limits:
        if budget.measure not in measures or budget.is_shadow or budget.scope.get("team") == SHADOW_KEY or not routes:
            continue
        if all(
            value == "*" or dimension not in values or value in values[dimension]
            for dimension, value in budget.scope.items()
        ):
            return budget
    return None
