"""The catalog: what can be dialled, at what price, from which grid, and what operators allow.

All of it is built once from the configuration and never changes; a reload builds a new one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from .base import Value
from .grid import CarbonIntensity
from .units import Bounds

# What is priced by the piece rather than by tokens, on paths that pass through.
PIECE_UNITS = ("image", "second", "query", "character")


# What figures are labelled with where the weights are unknown: they are counted as unknown, not guessed.
UNKNOWN_FOOTPRINT_METHOD = "unknown-model"


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
    input_max: int = field(init=False)
    input_max_long_cache: int = field(init=False)
    output_max: int = field(init=False)

    def __post_init__(self) -> None:
        assert (
            min(self.input, self.output, self.cached_input, self.cache_write, self.reasoning, self.cache_write_long)
            >= 0
        )
        object.__setattr__(self, "input_max", max(self.input, self.cached_input, self.cache_write))
        object.__setattr__(self, "input_max_long_cache", max(self.input_max, self.cache_write_long))
        object.__setattr__(self, "output_max", max(self.output, self.reasoning))


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSheet:
    """What a deployment charges; `source` says where the numbers come from.

    `steps` are (input tokens, rates) in ascending order: with strictly more input than a step's tokens the whole
    request is charged at its rates, the cliff that providers publish as `*_above_200k_tokens`.
    """

    base: Rates
    source: str
    rate_tiers: tuple[tuple[int, Rates], ...] = ()

    def rates_for(self, input_tokens: int) -> Rates:
        """The rates for a request with so much input."""
        if not self.rate_tiers:
            return self.base
        return next((rates for above, rates in reversed(self.rate_tiers) if input_tokens > above), self.base)


# Where it is known from how many sequences are served together; figures say it.
CONCURRENCY_SOURCES = ("prior", "declared", "observed", "latency")


# Facility energy over IT energy where nobody says: providers' reports of 2023 and 2024 (docs/methodology.md).
PUE_PRIOR = (1.09, 1.15, 1.30)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyProfile:
    """What is known about the weights and the machine behind a deployment; see carbon/energy.py for the formula.

    Parameters are counts in billions (1e9); `hardware` is one of carbon/energy.HARDWARE and `gpus` how many serve one
    replica (None: as many as the weights need), `engine` the generation of the serving software, "2024" or "2025" ("": not
    said). `concurrency` is sequences served together by one replica, None if unknown,
    and `concurrency_source` how that is known. `scale` is what a meter says beside the model, 1 without one. `source` says
    where the parameters are from: config, card, or ecologits (a registry of which much is guessed).
    """

    active_params_b: float
    total_params_b: float
    bytes_per_param: float
    hardware: str = "h200"
    hardware_factor: float = 1.0
    gpus: int | None = None
    engine: str = ""
    concurrency: float | None = None
    concurrency_source: str = "prior"
    meter_scale: float = 1.0
    is_metered: bool = False
    pue: tuple[float, float, float] = PUE_PRIOR
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
    cached_input_share: float
    facility_factor: float

    def accelerator_joules(self, input_tokens: int, cached_tokens: int, output_tokens: int) -> float:
        """GPU energy in joules; output includes reasoning, cached lies within input."""
        context = input_tokens + output_tokens * 0.5
        fresh = input_tokens - cached_tokens
        return (
            output_tokens * (self.per_output + self.per_output_context * context)
            + fresh * (self.per_input + self.per_input_squared * input_tokens)
            + cached_tokens * self.per_input * self.cached_input_share
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensors:
    """What can be asked about the machine behind a deployment.

    `metrics_url` is a vLLM or SGLang server's /metrics (how many sequences it serves together); `dcgm_url` a DCGM
    exporter's, `nvml` this machine's own GPUs; `gpus` those that belong to the deployment (indices or UUIDs; empty: all),
    `idle_watts` what they take together with the model loaded and nobody asking. `latency`: how many are served together
    may be inferred from the time between tokens.
    """

    metrics_url: str = ""
    dcgm_url: str = ""
    nvml: bool = False
    gpus: tuple[str, ...] = ()
    idle_watts: float = 0.0
    latency: bool = False

    @property
    def has_meter(self) -> bool:
        """Whether its joules are measured."""
        return self.nvml or bool(self.dcgm_url)

    @property
    def is_polled(self) -> bool:
        """Whether anything is asked of it at all."""
        return self.has_meter or self.latency or bool(self.metrics_url)


NO_SENSORS = Sensors()


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

    `sheet` None means unpriced, never free. `energy` is the low, mid and high model, None where the weights are unknown
    (`profile` is what it was made from). `intensity` is the grid's at present, `annual` what tables or the operator say
    where no feed does; `feeds` names its zone by feed, `footprint_method` what figures made of all this are labelled with
    (`data_version`: of which tables and coefficients).
    `batch`: it is for work that can wait.
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
    price_sheet: PriceSheet | None
    energy_models: tuple[EnergyModel, EnergyModel, EnergyModel] | None
    intensity: CarbonIntensity
    context_tokens_max: int
    output_tokens_max: int
    output_limit_is_known: bool
    vision: bool
    tools: bool
    stream_usage: bool
    timeouts: Timeouts
    dialects: tuple[str, ...]
    unconfirmed_dialects: frozenset[str] = frozenset()
    takes_reasoning_effort: bool = False
    adapts_thinking: bool = False
    takes_json_schema: bool = True
    energy_profile: EnergyProfile | None = None
    annual_intensity: CarbonIntensity
    cloud_region: str = ""
    zone_by_feed: Mapping[str, str] = field(default_factory=dict)
    footprint_method: str = UNKNOWN_FOOTPRINT_METHOD
    data_version: str = ""
    sensors: Sensors = NO_SENSORS
    is_batch: bool = False
    unit_prices: Mapping[str, int] = field(default_factory=dict)
    litellm_options: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A public model name and its candidate deployments. `auto` routes pick the tier by complexity.

    `reference` is the most capable candidate (what an all-frontier policy would have called), `roomiest_tokens` the
    longest context that any candidate takes, `tiers` are those of its candidates, ascending; `pair` names the models
    of the lowest and of the highest.
    """

    name: str
    candidates: tuple[Deployment, ...]
    is_auto: bool
    reference: Deployment
    context_tokens_max: int

    tiers: tuple[Tier, ...] = field(init=False)
    model_pair: tuple[str, str] = field(init=False)

    def __post_init__(self) -> None:
        usual = [candidate for candidate in self.candidates if not candidate.is_batch] or self.candidates
        tiers = tuple(sorted({candidate.tier for candidate in usual}))
        object.__setattr__(self, "tiers", tiers)
        object.__setattr__(self, "model_pair", (self._models(tiers[0]), self._models(tiers[-1])))

    @property
    def lowest_tier(self) -> Tier:
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
class RoutingPolicy:
    """The numbers behind routing: `tier_ceilings` gives, per tier in ascending order, the highest complexity it may serve."""

    tier_ceilings: Mapping[Tier, float]
    max_retries: int = 1


class Footprint(Value, frozen=True, kw_only=True):
    """Energy (mJ, facility boundary) and carbon (ug CO2e, operational + embodied) of one call; the embodied part of the mid
    figure, and the mid figure by market-based accounting (the same where nobody tells of contracts)."""

    energy_millijoules: Bounds
    carbon_micrograms: Bounds
    embodied_micrograms: int = 0
    market_micrograms: int = 0
