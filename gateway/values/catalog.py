"""The catalog: what can be dialled, at what price, from which grid, and what operators allow.

All of it is built once from the configuration and never changes; a reload builds a new one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from .base import Value
from .units import Bounds

# What is priced by the piece rather than by tokens, on paths that pass through.
UNITS = ("image", "second", "query", "character")


class Tier(IntEnum):
    """Capability class of a deployment; the order is that of capability."""

    small = 0
    medium = 1
    frontier = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Prices in nUSD per million tokens of each kind; cache_write is for the five-minute cache, cache_write_long for
    the one of an hour.

    `dearest_input` and `dearest_output` are what worst cases are held at; `dearest_long` where the request asks for the
    long cache.
    """

    input: int
    output: int
    cached_input: int
    cache_write: int
    reasoning: int
    cache_write_long: int
    dearest_input: int = field(init=False)
    dearest_long: int = field(init=False)
    dearest_output: int = field(init=False)

    def __post_init__(self) -> None:
        assert (
            min(self.input, self.output, self.cached_input, self.cache_write, self.reasoning, self.cache_write_long)
            >= 0
        )
        object.__setattr__(self, "dearest_input", max(self.input, self.cached_input, self.cache_write))
        object.__setattr__(self, "dearest_long", max(self.dearest_input, self.cache_write_long))
        object.__setattr__(self, "dearest_output", max(self.output, self.reasoning))


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSheet:
    """What a deployment charges; `source` says where the numbers come from.

    `steps` are (input tokens, rates) in ascending order: with strictly more input than a step's tokens the whole
    request is charged at its rates, the cliff that providers publish as `*_above_200k_tokens`.
    """

    base: Rates
    source: str
    steps: tuple[tuple[int, Rates], ...] = ()

    def rates(self, input_tokens: int) -> Rates:
        """The rates for a request with so much input."""
        if not self.steps:
            return self.base
        return next((rates for above, rates in reversed(self.steps) if input_tokens > above), self.base)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyProfile:
    """What is known about the weights and the machine behind a deployment; see carbon/energy.py for the formula.

    Parameters are counts in billions (1e9); `concurrency` is sequences served together by one replica, None if unknown.
    """

    active_params_b: float
    total_params_b: float
    bytes_per_param: float
    hardware_factor: float = 1.0
    concurrency: float | None = None
    pue: tuple[float, float, float] = (1.09, 1.15, 1.30)
    source: str = "config"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyModel:
    """One bound's energy formula with everything but the tokens multiplied out; carbon/energy.py builds it.

    Joules per token (`per_output`, `per_input`), per token and token of context or prompt (`*_context`, `*_squared`);
    `facility` takes accelerator energy to the facility's meter.
    """

    per_output: float
    per_output_context: float
    per_input: float
    per_input_squared: float
    cached_share: float
    facility: float

    def accelerator_joules(self, input_tokens: int, cached_tokens: int, output_tokens: int) -> float:
        """GPU energy in joules; output includes reasoning, cached lies within input."""
        context = input_tokens + output_tokens * 0.5
        fresh = input_tokens - cached_tokens
        return (
            output_tokens * (self.per_output + self.per_output_context * context)
            + fresh * (self.per_input + self.per_input_squared * input_tokens)
            + cached_tokens * self.per_input * self.cached_share
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Intensity:
    """Carbon intensity of a grid zone, location-based average, in gCO2e per kWh, with where it came from.

    `label` is what figures made with it carry: energy method and grid method.
    """

    zone: str
    grams_per_kwh: float
    method: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds to wait for the connection, the first byte, between bytes, and in all."""

    connect: float
    first_byte: float
    idle: float
    total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Provider x model x region x account: the thing that is dialled.

    `sheet` None means unpriced, never free. `energy` is the low, mid and high model, None where the weights are unknown.
    `output_tokens_known` False means that `output_tokens` is our assumption, which may not bound what a caller asks for.

    `speaks` are the dialects that it serves, the preferred first; those in `learnt` may turn out to be missing.
    `unit_prices` are nUSD for an image, a second of sound, a query, a character (UNITS), where the list has them.
    `structured`: whether its answers can be held to a JSON schema (unknown counts as yes). `reasons`, `adaptive`: whether the model takes a reasoning effort, and whether it decides itself how long to think.
    `options` are litellm's own parameters, secrets among them.
    """

    name: str
    provider: str
    dialect: str
    base_url: str
    secret: str | None = field(repr=False)
    model: str
    tier: Tier
    sheet: PriceSheet | None
    energy: tuple[EnergyModel, EnergyModel, EnergyModel] | None
    intensity: Intensity
    context_tokens: int
    output_tokens: int
    output_tokens_known: bool
    vision: bool
    tools: bool
    stream_usage: bool
    timeouts: Timeouts
    speaks: tuple[str, ...]
    learnt: frozenset[str] = frozenset()
    reasons: bool = False
    adaptive: bool = False
    structured: bool = True
    unit_prices: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A public model name and its candidate deployments. `auto` routes pick the tier by complexity.

    `reference` is the most capable candidate (what an all-frontier policy would have called), `roomiest_tokens` the
    longest context that any candidate takes, `tiers` are those of its candidates, ascending; `pair` names the models
    of the lowest and of the highest.
    """

    name: str
    candidates: tuple[Deployment, ...]
    auto: bool
    reference: Deployment
    roomiest_tokens: int

    tiers: tuple[Tier, ...] = field(init=False)
    pair: tuple[str, str] = field(init=False)

    def __post_init__(self) -> None:
        tiers = tuple(sorted({candidate.tier for candidate in self.candidates}))
        object.__setattr__(self, "tiers", tiers)
        object.__setattr__(self, "pair", (self._models(tiers[0]), self._models(tiers[-1])))

    @property
    def lowest(self) -> Tier:
        """The lowest tier of its candidates."""
        return self.tiers[0]

    def _models(self, tier: Tier) -> str:
        return "+".join(sorted({candidate.model for candidate in self.candidates if candidate.tier == tier}))


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskType:
    """A kind of work and how to recognise it: any of these words, offered tools, or the caller's own header."""

    name: str
    words: frozenset[str] = frozenset()
    tools: frozenset[str] = frozenset()
    complexity_shift: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The numbers behind routing: tier thresholds on complexity, and what energy and carbon weigh.

    `tier_ceilings` gives, per tier in ascending order, the highest complexity it may serve. `carbon_nusd_per_kg` is the
    internal carbon price that is added to the expected charge when deployments of a tier are compared;
    `max_request_millijoules` forbids candidates whose expected energy is above it.
    """

    tier_ceilings: Mapping[Tier, float]
    carbon_nusd_per_kg: int = 0
    max_request_millijoules: int | None = None
    max_retries: int = 1


class Footprint(Value, frozen=True, kw_only=True):
    """Energy (mJ, facility boundary) and carbon (ug CO2e, operational + embodied) of one call, with its method."""

    energy_millijoules: Bounds
    carbon_micrograms: Bounds
    method: str
