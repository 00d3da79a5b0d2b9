"""A candidate: a deployment and this request's figures there."""

from ...values.base import Value
from ...values.catalog import Deployment, Tier
from ...values.energy_policy import NO_ENERGY_PREFERENCES, EnergyPreferences
from ...values.errors import NotTranslatable
from ..asked_terms import AS_USUAL, AskedTerms
from ..deployment_load import IDLE, DeploymentLoad


class Candidate(Value, frozen=True, kw_only=True):
    """A deployment with this request's figures.

    Holds are worst cases; expected figures assume a response of usual length.

    deployment: the deployment
    output_tokens: usual output tokens, all choices together
    output_tokens_max: most output tokens, all choices together
    asked: what reaches it of the terms that the request asks for
    added_tokens: (input, output) tokens that the provider's tools and further calls may add
    hold_nusd: worst-case price, None if unpriced
    unpriced: why it has no price, "" where it has one
    hold_millijoules: worst-case energy, None if unknown
    expected_millijoules: expected energy, 0 if unknown or not needed
    expected_micrograms: expected operational carbon by `intensity_signal`, 0 if unknown or not needed
    energy_policy: the operator's preferences on energy and carbon
    intensity_signal: "average" or "marginal"
    deferrable: the request may wait
    longest_context: no candidate of the route takes a longer context
    upstream_dialect: dialect of the call, None if it supports none that fits
    not_translatable: what of the request cannot be translated to it
    tier_max: highest tier that may be used, None for any
    cache_warm: its cache holds part of the input
    load: its load
    misses_deadline: it is expected to miss the request's deadline
    deprioritized: tried after the others
    circuit_open_seconds: seconds for which its circuit breaker stays open, 0 if it is not open
    """

    deployment: Deployment
    output_tokens: int
    output_tokens_max: int
    hold_nusd: int | None
    hold_millijoules: int | None
    expected_millijoules: int
    expected_micrograms: int
    energy_policy: EnergyPreferences = NO_ENERGY_PREFERENCES
    intensity_signal: str = "average"
    deferrable: bool = False
    longest_context: bool
    upstream_dialect: str | None
    not_translatable: NotTranslatable | None = None
    tier_max: Tier | None = None
    cache_warm: bool = False
    load: DeploymentLoad = IDLE
    misses_deadline: bool = False
    deprioritized: bool = False
    circuit_open_seconds: float = 0.0
    asked: AskedTerms = AS_USUAL
    added_tokens: tuple[int, int] = (0, 0)
    unpriced: str = ""
