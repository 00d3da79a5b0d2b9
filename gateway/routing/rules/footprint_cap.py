"""Excludes candidates above the operator's energy or carbon cap for one request.

A candidate with an unknown footprint is excluded too: a cap is a promise.
"""

from ...carbon.footprint import carbon_micrograms_at
from ...values.plan import RequestFeatures
from ...values.units import MICROGRAMS_PER_GRAM, MILLIJOULES_PER_WH
from .candidate import Candidate


def forbids(candidate: Candidate, features: RequestFeatures) -> str | None:
    """Why the deployment exceeds a cap, None if it does not."""
    energy_cap, carbon_cap = (
        candidate.energy_policy.energy_millijoules_max,
        candidate.energy_policy.carbon_micrograms_max,
    )
    if energy_cap is None and carbon_cap is None:
        return None
    deployment = candidate.deployment
    if deployment.energy_models is None:
        return "footprint: unknown, but capped"
    if energy_cap is not None and candidate.expected_millijoules > energy_cap:
        expected = candidate.expected_millijoules / MILLIJOULES_PER_WH
        return f"energy: about {expected:.3g} Wh, cap {energy_cap / MILLIJOULES_PER_WH:.3g} Wh"
    if carbon_cap is None:
        return None
    # As reported: average intensity, embodied carbon included.
    grid = deployment.intensity.grams_per_kwh
    emitted = carbon_micrograms_at(deployment.energy_models, grid, candidate.expected_millijoules)
    if emitted <= carbon_cap:
        return None
    return f"carbon: about {emitted / MICROGRAMS_PER_GRAM:.3g} g, cap {carbon_cap / MICROGRAMS_PER_GRAM:.3g} g"
