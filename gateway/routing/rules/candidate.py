"""What rules and the plan know about one candidate: the deployment and what this request is expected to take there."""

from ...values.base import Value
from ...values.catalog import Deployment, Tier
from ...values.energy_policy import NOT_GREEN, Green
from ...values.errors import NotCarriable
from ..deployment_load import IDLE, Load


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
    green: Green = NOT_GREEN
    signal: str = "average"
    deferrable: bool = False
    roomiest: bool
    speech: str | None
    uncarried: NotCarriable | None = None
    most: Tier | None = None
    warm: bool = False
    load: Load = IDLE
    late: bool = False
    resting: bool = False
    open_seconds: float = 0.0
