"""What rules and the plan know about one candidate: the deployment and what this request is expected to take there."""

from ...values.base import Value
from ...values.catalog import Deployment, Tier
from ...values.energy_policy import NO_ENERGY_PREFERENCES, EnergyPreferences
from ...values.errors import NotTranslatable
from ..deployment_load import IDLE, DeploymentLoad


class Candidate(Value, frozen=True, kw_only=True):
    """A deployment with this request's figures: holds are worst cases, expected ones assume a usual answer's length.

    `hold_nusd` is None where no price is known, `output_tokens` the usual length of its answers (all choices together).
    `expected_micrograms` is operational carbon by `signal`, the intensity that carbon is weighed by here. `green` is what is asked of energy and
    carbon, `most` the highest tier that may be used (None: any). `warm`: its cache holds part of the input; `late`: it
    would miss the deadline; `deferrable`: the request is work that can wait.
    `roomiest`: no candidate of the route takes a longer context. `speech` is the dialect in which it would be spoken to,
    None if there is none; `uncarried` says what of the request cannot be said there. `resting`: others come first;
    `open_seconds` > 0: its circuit is open for so long.
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
