"""The catalog: deployments, prices, energy profiles, routes and task types.

Built once from the configuration and never changed; a reload builds a new one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from .base import Value
from .grid import CarbonIntensity
from .service_tiers import NO_TIER_POLICY, TierPolicy
from .units import Bounds

# Units priced by the piece rather than by tokens, on pass-through paths.
BILLED_UNITS = ("image", "second", "query", "character", "page", "video_second")


# Label of figures where the weights are unknown: counted as unknown, not guessed.
UNKNOWN_FOOTPRINT_METHOD = "unknown-model"


class Tier(IntEnum):
    """Capability class of a deployment; the order is that of capability."""

    small = 0
    medium = 1
    frontier = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ModalityRates:
    """Prices of audio and images in nUSD per million tokens; those of text where there are no others."""

    input_audio: int
    cached_audio: int
    input_image: int
    cached_image: int
    output_audio: int
    output_image: int

    def __post_init__(self) -> None:
        assert min(self.input_audio, self.cached_audio, self.input_image, self.cached_image) >= 0
        assert min(self.output_audio, self.output_image) >= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Prices in nUSD per million tokens of each kind.

    cache_write: writing to the five-minute cache
    cache_write_long: writing to the one-hour cache
    modalities: prices of audio and images; None: as text
    input_max, output_max: the dearest kind of text or image input and of text output, at which worst cases are held
    input_max_long_cache: the dearest input where the request may write to the one-hour cache
    """

    input: int
    output: int
    cached_input: int
    cache_write: int
    reasoning: int
    cache_write_long: int
    modalities: ModalityRates | None = None
    input_max: int = field(init=False)
    input_max_long_cache: int = field(init=False)
    output_max: int = field(init=False)

    def __post_init__(self) -> None:
        assert (
            min(self.input, self.output, self.cached_input, self.cache_write, self.reasoning, self.cache_write_long)
            >= 0
        )
        input_max = max(self.input, self.cached_input, self.cache_write)
        if self.modalities is not None:
            input_max = max(input_max, self.modalities.input_image, self.modalities.cached_image)
        object.__setattr__(self, "input_max", input_max)
        object.__setattr__(self, "input_max_long_cache", max(self.input_max, self.cache_write_long))
        object.__setattr__(self, "output_max", max(self.output, self.reasoning))


# Prices of regions are in thousandths of the price elsewhere.
GEO_SCALE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class OffPeak:
    """Prices of certain hours.

    sheet: the price sheet in those hours
    minutes: (first, end) in minutes of the UTC week, Monday 00:00 being 0; the end is not part of it
    """

    sheet: "PriceSheet"
    minutes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSheet:
    """What a deployment charges.

    source: where the numbers come from
    rate_tiers: (input tokens, rates), ascending. With strictly more input than a tier's tokens the whole request is
        charged at its rates: the cliff that providers publish as `*_above_200k_tokens`.
    service_tiers: by service tier (usage.SERVICE_TIERS), the sheet of its tokens
    names_tiers: whether answers name the tier that served them; else the dearest that was asked for is charged
    off_peak: prices of certain hours; None: the same at all hours
    geo_permille: by region that an answer names, the price of tokens in thousandths of that elsewhere
    tool_nusd: by unit of a server tool, nUSD per call
    tools_once, tools_always: units of which all calls within a request are one fee; that are billed if nothing was called
    call_nusd: fee of each call, nUSD
    further_models: sheets of models that the provider may call within a request, by name
    output_tokens_max: longest output, of further models; 0: unknown
    has_standing_axes: whether any call may cost more or less than its tokens of text: by audio, images, hours or fees
    """

    base: Rates
    source: str
    rate_tiers: tuple[tuple[int, Rates], ...] = ()
    service_tiers: Mapping[str, "PriceSheet"] = field(default_factory=dict)
    names_tiers: bool = True
    off_peak: OffPeak | None = None
    geo_permille: Mapping[str, int] = field(default_factory=dict)
    tool_nusd: Mapping[str, int] = field(default_factory=dict)
    tools_once: frozenset[str] = frozenset()
    tools_always: frozenset[str] = frozenset()
    call_nusd: int = 0
    further_models: Mapping[str, "PriceSheet"] = field(default_factory=dict, repr=False)
    output_tokens_max: int = 0
    has_standing_axes: bool = field(init=False)

    def __post_init__(self) -> None:
        rates = (self.base, *(step for _, step in self.rate_tiers))
        standing = self.off_peak is not None or bool(self.tools_always) or bool(self.call_nusd)
        object.__setattr__(self, "has_standing_axes", standing or any(each.modalities is not None for each in rates))

    def rates_for(self, input_tokens: int) -> Rates:
        """The rates for a request with this many input tokens."""
        if not self.rate_tiers:
            return self.base
        return next((rates for above, rates in reversed(self.rate_tiers) if input_tokens > above), self.base)


# How the concurrency of a deployment is known; part of the label of its figures.
CONCURRENCY_SOURCES = ("prior", "declared", "observed", "latency")


# Facility energy over IT energy where undeclared: providers' reports of 2023 and 2024 (docs/methodology.md).
PUE_PRIOR = (1.09, 1.15, 1.30)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyProfile:
    """What is known about the weights and the machine behind a deployment.

    carbon/energy.py has the formula.

    active_params_b, total_params_b: parameters, 1e9
    hardware: a key of carbon/energy.HARDWARE
    hardware_factor: multiplies accelerator energy, 1 for the hardware as fitted
    gpus: GPUs of one replica; None: as many as the weights need
    engine: generation of the serving software, "2024" or "2025"; "": undeclared
    concurrency: sequences served together by one replica; None: unknown
    concurrency_source: how that is known, one of CONCURRENCY_SOURCES
    meter_scale, is_metered: metered over modelled energy, 1 without a meter; whether a meter corrects the figures
    pue: facility over IT energy, low-mid-high
    source: where the parameters are from: config, card or ecologits (a registry of estimates)
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
    """One bound's energy formula of a deployment (carbon/energy.py) over tokens.

    per_output, per_input: J per token
    per_output_context: J per output token and token of context
    per_input_squared: J per uncached input token and input token
    cached_input_share: cost of a cached input token over that of an uncached one
    facility_factor: facility energy over accelerator energy
    """

    per_output: float
    per_output_context: float
    per_input: float
    per_input_squared: float
    cached_input_share: float
    facility_factor: float

    def accelerator_joules(self, input_tokens: int, cached_tokens: int, output_tokens: int) -> float:
        """GPU energy in joules; output includes reasoning, input includes cached tokens."""
        context = input_tokens + output_tokens * 0.5
        fresh = input_tokens - cached_tokens
        return (
            output_tokens * (self.per_output + self.per_output_context * context)
            + fresh * (self.per_input + self.per_input_squared * input_tokens)
            + cached_tokens * self.per_input * self.cached_input_share
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensors:
    """What can be measured of the machine behind a deployment.

    metrics_url: /metrics of a vLLM or SGLang server, for its concurrency; "": none
    dcgm_url: /metrics of a DCGM exporter; "": none
    nvml: read this machine's own GPUs
    gpus: the deployment's GPUs, indices or UUIDs; empty: all
    idle_watts: what they draw together with the model loaded and no request
    latency: infer the concurrency from the time between tokens
    """

    metrics_url: str = ""
    dcgm_url: str = ""
    nvml: bool = False
    gpus: tuple[str, ...] = ()
    idle_watts: float = 0.0
    latency: bool = False

    @property
    def has_meter(self) -> bool:
        """Whether its energy is measured."""
        return self.nvml or bool(self.dcgm_url)

    @property
    def is_polled(self) -> bool:
        """Whether any sensor is read."""
        return self.has_meter or self.latency or bool(self.metrics_url)


NO_SENSORS = Sensors()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds to wait for the connection, the first byte, between bytes, in total."""

    connect: float
    first_byte: float
    idle: float
    total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Provider x model x region x account: what is dialled.

    price_sheet: None means unpriced, never free
    energy_models: low, mid and high; None where the weights are unknown
    energy_profile: what `energy_models` were built from
    intensity: the grid's at present
    annual_intensity: from tables or the operator, used where no feed has a value
    zone_by_feed: the grid zone's name in each feed
    footprint_method: label of figures built from all this
    data_version: version of the tables and coefficients behind them
    is_batch: for work that can wait
    output_limit_is_known: False where `output_tokens_max` is our assumption, which may not bound what a caller requests
    dialects: those that it serves, the preferred first
    unconfirmed_dialects: those of `dialects` that may turn out to be missing
    unit_prices: nUSD by BILLED_UNITS, where it has them; `unit:quality:size` where the price depends on both
    takes_json_schema: whether answers can be held to a JSON schema (unknown counts as yes)
    takes_reasoning_effort, adapts_thinking: takes a reasoning effort; decides itself how long to think
    litellm_options: litellm's own parameters, secrets among them
    """

    name: str
    provider: str
    dialect: str
    base_url: str = field(repr=False)
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
    """A public model name and its candidate deployments.

    is_auto: the tier is chosen by complexity
    reference: the most capable candidate, what an all-frontier policy would call
    context_tokens_max: the longest context of any candidate
    tiers: of its candidates, ascending
    model_pair: models of the lowest and of the highest tier
    tier_policy: what it allows of service tiers
    """

    name: str
    candidates: tuple[Deployment, ...]
    is_auto: bool
    reference: Deployment
    context_tokens_max: int
    tier_policy: TierPolicy = NO_TIER_POLICY

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
    """A kind of work, recognized by any of its words, its tools, or a header.

    complexity_shift: added to the log-odds of the complexity
    """

    name: str
    words: frozenset[str] = frozenset()
    tools: frozenset[str] = frozenset()
    complexity_shift: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingPolicy:
    """Thresholds of routing.

    tier_ceilings: the highest complexity that each tier may serve, ascending
    max_retries: retries at the same deployment
    """

    tier_ceilings: Mapping[Tier, float]
    max_retries: int = 1


class Footprint(Value, frozen=True, kw_only=True):
    """Energy and carbon of one call.

    energy_millijoules: low-mid-high, mJ at the facility's meter
    carbon_micrograms: low-mid-high, ug CO2e, operational + embodied
    embodied_micrograms: the embodied part of the mid figure
    market_micrograms: the mid figure by market-based accounting; the same where no contracts are known
    """

    energy_millijoules: Bounds
    carbon_micrograms: Bounds
    embodied_micrograms: int = 0
    market_micrograms: int = 0
