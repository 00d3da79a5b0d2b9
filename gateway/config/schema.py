"""The shape of routing.yaml: one class per section, one attribute per key.

The docstrings below the attributes become the tables of docs/configuration.md and the JSON Schema that editors read
(config/routing.schema.json); `make docs` writes both.
"""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints


def _number(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("must be a number, like 0.15")  # noqa: TRY004 - pydantic turns ValueError into a problem
    number = Decimal(value)
    if not number.is_finite():
        raise ValueError("must be a finite number")
    return number


Number = Annotated[Decimal, BeforeValidator(_number)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Count = Annotated[int, Field(gt=0, le=1_000_000_000)]
Percent = Annotated[int, Field(ge=1, le=100)]
Score = Annotated[Number, Field(gt=0, le=20)]
TierAction = Literal["allow", "strip", "refuse"]
TierName = Literal["small", "medium", "frontier"]
ServiceTierName = Literal["flex", "balanced", "priority", "fast", "ultrafast", "batch"]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
BilledUnit = Literal["image", "second", "query", "character", "page", "video_second"]

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}$"
_ROUTE_NAME = r"^(\*|[A-Za-z0-9][A-Za-z0-9._:/@-]{0,126}\*?)$"
_BASE_URL = r"^https?://[^\s?#]+$"
_HTTP_URL = r"^https?://[^\s#]+$"
_DAY = r"^\d{4}-\d{2}-\d{2}$"
_HOURS = r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$"
_GPU = r"^[A-Za-z0-9-]{1,64}$"
_FEED_ZONE = r"^[A-Za-z0-9_-]{1,64}$"
_ZONE_PATTERN = r"^[A-Za-z0-9*_/. -]{1,64}$"
_WINDOW = r"^(hour|day|week|month|total|session|rolling-[1-9][0-9]{0,3}[mhd])$"
_ONE_LINE = r"^[^\r\n]*$"
_SERVICE_TIER = r"^(\*|[a-z0-9][a-z0-9._-]{0,63})$"
# What a text should look like that does not match; `penstock check` prints it in place of the pattern.
PATTERN_MEANINGS = {
    NAME_PATTERN: "1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit",
    _MODEL_NAME: "1 to 128 letters, digits or any of '._:/@-', beginning with a letter or digit",
    _ROUTE_NAME: "1 to 128 letters, digits or any of '._:/@-', with '*' at the end only",
    _BASE_URL: "an http:// or https:// URL without query or fragment",
    _HTTP_URL: "an http:// or https:// URL without fragment",
    _DAY: "a day like 2027-01-31",
    _HOURS: "a span of hours like 16:30-00:30",
    _GPU: "a GPU index or UUID, 1 to 64 letters, digits or '-'",
    _FEED_ZONE: "1 to 64 letters, digits, '_' or '-'",
    _ZONE_PATTERN: "a grid zone or cloud region, '*' matching anything, like SE* or gcp/europe-*",
    _WINDOW: "hour, day, week, month, total, session, or rolling-N with m, h or d, like rolling-24h",
    _ONE_LINE: "a single line",
    _SERVICE_TIER: "a service tier in lower case, like priority, or '*' for all others",
}

# Names are used in headers, metric labels and account keys.
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
ModelName = Annotated[str, StringConstraints(pattern=_MODEL_NAME)]
RouteName = Annotated[str, StringConstraints(pattern=_ROUTE_NAME)]
BaseUrl = Annotated[str, StringConstraints(pattern=_BASE_URL)]
HttpUrl = Annotated[str, StringConstraints(pattern=_HTTP_URL)]
ServiceTier = Annotated[str, StringConstraints(pattern=_SERVICE_TIER)]
FeedZone = Annotated[str, StringConstraints(pattern=_FEED_ZONE)]


class _StrictConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class SecretRefConfig(_StrictConfig):
    """A secret by reference, never literal; exactly one of the two keys."""

    env: str | None = None
    """Name of the environment variable that holds the secret."""
    file: str | None = None
    """Path of the file that holds the secret; white space around it is removed."""


class SessionCapsConfig(_StrictConfig):
    """Limits of one session; requests beyond them are refused."""

    calls: Count | None = None
    """Model calls. Unset: no cap."""
    usd: NotNegative | None = None
    """US dollars. Unset: no cap."""
    tokens: Count | None = None
    """Tokens, input and output together. Unset: no cap."""
    wh: NotNegative | None = None
    """Energy in watt-hours. Unset: no cap."""


class SessionTreeCapsConfig(SessionCapsConfig):
    """Limits of a session together with its sub-agents."""

    minutes: Positive | None = None
    """Minutes of wall clock since the session tree began. Unset: no cap."""
    depth: Annotated[int, Field(ge=0, le=64)] | None = None
    """Levels of sub-agents: 0 for none, 1 for sub-agents without sub-agents of their own. Unset: no cap."""
    sub_agents: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Sub-agents in the whole tree. Unset: no cap."""


class KeyConfig(_StrictConfig):
    """An API key of a caller."""

    id: Name
    """Name of the key in the ledger, metrics and budgets; unique in the file."""
    team: Name
    """Team that pays; all keys of a team have one organization."""
    org: Name = "default"
    """Organization (tenant) of the team. Budgets of different organizations are kept apart."""
    secret: SecretRefConfig
    """Value that callers send as `Authorization: Bearer`, `x-api-key`, `api-key` or `x-goog-api-key`; different for each
    key."""
    caps: SessionTreeCapsConfig = SessionTreeCapsConfig()
    """Caps of this key's sessions; of each cap the lower of this and `sessions.caps` applies."""
    service_tiers: dict[ServiceTier, TierAction] = {}
    """What happens to requests of this key that ask for a service tier, as for routes; the stricter of both applies."""
    inference_geo: TierAction | None = None
    """What happens to requests of this key that ask for a region, as for routes; the stricter of both applies."""


class ProviderConfig(_StrictConfig):
    """A provider's API, and the account that is used there."""

    dialect: Literal["openai", "anthropic", "litellm"] = "openai"
    """API of the provider: OpenAI-compatible, Anthropic, or anything that litellm supports (an extra)."""
    base_url: BaseUrl | None = None
    """URL before `/chat/completions` or `/messages`, usually ending in `/v1`. Required unless `dialect` is `litellm`."""
    api_key: SecretRefConfig | None = None
    """Key that is sent to the provider. Unset: none is sent."""
    speaks: Annotated[list[Literal["chat", "responses", "embeddings", "completions"]], Field(min_length=1)] | None = (
        None
    )
    """Endpoints of an `openai` provider. Unset: all four; `responses` is tried, and its absence remembered."""
    options: dict[str, str | int | bool] = {}
    """Parameters for litellm, such as regions. `dialect: litellm` only."""
    secrets: dict[str, SecretRefConfig] = {}
    """Secret parameters for litellm, such as cloud credentials. `dialect: litellm` only."""


class ModalityRatesConfig(_StrictConfig):
    """Prices of audio or of images, in US dollars per million tokens."""

    input: NotNegative | None = None
    """Input tokens of this kind. Unset: as text."""
    cached_input: NotNegative | None = None
    """Those that are read from the provider's cache. Unset: as cached text where `cached_input` is set, else as `input`."""
    output: NotNegative | None = None
    """Output tokens of this kind. Unset: as text."""


class RatesConfig(_StrictConfig):
    """Prices in US dollars per million tokens, at most nine decimals."""

    input: NotNegative
    """Input tokens that are not read from a cache."""
    output: NotNegative
    """Output tokens."""
    cached_input: NotNegative | None = None
    """Input tokens read from the provider's cache. Unset: as `input`."""
    cache_write: NotNegative | None = None
    """Input tokens written to the five-minute cache. Unset: as `input`."""
    cache_write_long: NotNegative | None = None
    """Input tokens written to the one-hour cache. Unset: as `cache_write`."""
    reasoning: NotNegative | None = None
    """Reasoning tokens. Unset: as `output`."""
    audio: ModalityRatesConfig | None = None
    """Audio tokens. Unset: as text."""
    image: ModalityRatesConfig | None = None
    """Image tokens. Unset: as text."""


class PriceStepConfig(RatesConfig):
    """Rates of long requests; they apply to the whole request."""

    above_input_tokens: Count
    """Input tokens that a request must exceed for these rates."""


class ServiceTierPriceConfig(RatesConfig):
    """Prices of one service tier."""

    steps: list[PriceStepConfig] = []
    """Rates of long requests, in ascending order of `above_input_tokens`."""


class OffPeakPriceConfig(RatesConfig):
    """Prices of certain hours; they apply to requests of any length."""

    hours_utc: Annotated[list[Annotated[str, StringConstraints(pattern=_HOURS)]], Field(min_length=1)]
    """Spans of a day in UTC, like `16:30-00:30`; the end is not part of it, and may be on the next day."""
    weekdays: list[Weekday] = []
    """Days on which they apply, in UTC. Empty: every day."""


class PriceConfig(ServiceTierPriceConfig):
    """A price sheet."""

    tiers: dict[ServiceTierName, ServiceTierPriceConfig] = {}
    """Prices by the service tier that the answer names; of a tier that is missing the standard prices apply."""
    off_peak: OffPeakPriceConfig | None = None
    """Prices of certain hours, by the end of the call. Unset: the same at all hours."""
    regions: dict[Name, Positive] = {}
    """Factor on all tokens by the region that the answer names (Anthropic's `inference_geo`), like `us: 1.1`. Unset: from
    the price list."""
    tools: dict[Name, NotNegative] = {}
    """US dollars per call of a tool that the provider runs, like `web_search: 0.01`. Unset: from the price list."""
    request: NotNegative | None = None
    """US dollars per request. Unset: from the price list, usually none."""


class PriceChangeConfig(PriceConfig):
    """A price sheet that replaces the one before on a given day."""

    effective: Annotated[str, StringConstraints(pattern=_DAY)]
    """First day of the new prices, from 00:00 UTC, like 2027-01-31."""


class PowerMeterConfig(_StrictConfig):
    """A power meter of the GPUs behind a deployment; exactly one of `dcgm_url` and `nvml`."""

    dcgm_url: HttpUrl | None = None
    """Metrics URL of a DCGM exporter."""
    nvml: bool = False
    """Read the GPUs of the gateway's own machine through NVML."""
    gpus: list[Annotated[str, StringConstraints(pattern=_GPU)]] = []
    """Indices or UUIDs of the GPUs that serve this deployment. Empty: all GPUs of the meter."""
    idle_watts: Annotated[Number, Field(ge=0, le=1_000_000)] = Decimal(0)
    """Watts of these GPUs together with the model loaded and no requests; exported as idle energy, the rest is attributed
    to requests."""


class ModelEnergyConfig(_StrictConfig):
    """Model size and hardware, from which energy is estimated (docs/methodology.md)."""

    active_params_b: Annotated[Number, Field(gt=0, le=100_000)] | None = None
    """Parameters that are active for a token, in billions. Unset: from the bundled model card, else unknown."""
    total_params_b: Annotated[Number, Field(gt=0, le=100_000)] | None = None
    """All parameters, in billions; needs `active_params_b`. Unset: as `active_params_b`."""
    bits_per_param: Annotated[Number, Field(ge=1, le=32)] | None = None
    """Bits per parameter. Unset: from the model card, else 8."""
    concurrency: Annotated[Number, Field(gt=0, le=1_000_000)] | None = None
    """Sequences that a replica serves at once, the largest uncertainty of the estimate. Unset: a default estimate."""
    metrics_url: HttpUrl | None = None
    """Metrics URL of a vLLM or SGLang server, from which the concurrency is read. Not together with `concurrency`."""
    infer_concurrency: bool = False
    """Infer the concurrency from the time between tokens. Wrong where tokens are drafted ahead or hardware is not a GPU.
    Not together with `concurrency`."""
    hardware: Literal["a100", "h100", "h200", "b200"] | None = None
    """Accelerator. Unset: `h200`."""
    hardware_factor: Annotated[Number, Field(gt=0, le=100)] = Decimal(1)
    """Multiplier of the estimated energy, for accelerators that are not in the list."""
    engine: Literal["2024", "2025"] | None = None
    """Generation of the serving software; that of 2024 takes 1.5 times the energy. Unset: 2024 on `a100`, else 2025 with a
    higher upper bound."""
    gpus: Annotated[int, Field(ge=1, le=1024)] | None = None
    """GPUs of one replica. Unset: as many as the parameters need."""
    pue: Annotated[Number, Field(ge=1, le=3)] | None = None
    """Power usage effectiveness of the data center. Unset: the cloud region's, else 1.15 (1.09 to 1.30)."""
    power: PowerMeterConfig | None = None
    """Power meter of the GPUs. Unset: energy is modeled only."""


class TimeoutsConfig(_StrictConfig):
    """Timeouts of a call to a deployment, in seconds."""

    connect: Positive = Decimal(5)
    """Until the connection is established."""
    first_byte: Positive = Decimal(120)
    """Until the first byte of the response."""
    idle: Positive = Decimal(60)
    """Between two chunks of the response."""
    total: Positive = Decimal(600)
    """For the whole call."""


class FeedZonesConfig(_StrictConfig):
    """Name of the deployment's grid at each live feed; the feed must be configured under `feeds`."""

    electricity_maps: FeedZone | None = None
    """Zone at Electricity Maps, like DE. Unset: that of `cloud_region`, if known."""
    watttime: FeedZone | None = None
    """Region at WattTime, like CAISO_NORTH. Unset: none."""
    uk: FeedZone | None = None
    """GB, or the number of a British region, 1 to 17. Unset: none."""


class DeploymentConfig(_StrictConfig):
    """A model at a provider, with its price and its grid: what the gateway calls."""

    provider: Name
    """Entry of `providers`."""
    model: ModelName
    """Model name that is sent to the provider."""
    tier: TierName
    """Capability class of the model."""
    price: PriceConfig | None = None
    """Price sheet. Unset: that of the bundled price list; a model that it lacks is unpriced, and no budget in USD admits it."""
    price_changes: list[PriceChangeConfig] = []
    """Future price sheets, in ascending order of `effective`."""
    price_list: str | None = None
    """Name of the model in the bundled price list. Unset: by rules from `model` and the provider's `base_url`
    (docs/budgets.md#names)."""
    unit_prices: dict[BilledUnit, NotNegative] = {}
    """US dollars per image, second of audio, query, character, page or second of video, where the provider bills by the
    piece. Unset: from the price list."""
    energy: ModelEnergyConfig | None = None
    """Model size and hardware. Unset: from the bundled model card; without one the footprint is unknown, and no budget in
    Wh or gCO2e admits it."""
    zone: str | None = None
    """Grid zone, ISO alpha-3 or a part of one, like FRA or USA-oregon; preferred to `cloud_region`. Unset: the grid of
    `cloud_region`."""
    cloud_region: str | None = None
    """Cloud region, like gcp/europe-west1: its grid, PUE and carbon-free share. Unset, and no `zone`: world average."""
    feeds: FeedZonesConfig = FeedZonesConfig()
    """Name of the grid at each live feed. Unset: annual averages."""
    grams_co2e_per_kwh: Annotated[Number, Field(ge=0, le=2000)] | None = None
    """Location-based carbon intensity in gCO2e/kWh; replaces tables and feeds. Unset: from those."""
    market_grams_co2e_per_kwh: Annotated[Number, Field(ge=0, le=2000)] | None = None
    """Market-based carbon intensity in gCO2e/kWh, from contracts; reported separately. Unset: from the cloud region's
    carbon-free share, else as location-based."""
    batch: bool = False
    """Serve only requests that may be deferred."""
    context_tokens: Count | None = None
    """Longest context in tokens. Unset: from the price list, else 128,000."""
    output_tokens: Count | None = None
    """Longest output in tokens. Unset: from the price list, else 16,384 is assumed."""
    vision: bool | None = None
    """Whether the model accepts images. Unset: from the price list, else true."""
    tools: bool | None = None
    """Whether the model accepts tools. Unset: from the price list, else true."""
    json_schema: bool | None = None
    """Whether the model accepts a JSON Schema for its output. Unset: from the price list, else true."""
    reasoning: bool | None = None
    """Whether the model accepts a reasoning effort. Unset: from the price list, else false."""
    adaptive_thinking: bool | None = None
    """Whether the model decides itself how long to think (Anthropic). Unset: from the price list, else false."""
    stream_usage: bool = True
    """Ask for token counts at the end of streams (`stream_options`). False: for servers that reject the field."""
    timeouts: TimeoutsConfig = TimeoutsConfig()
    """Timeouts of a call."""


class RouteConfig(_StrictConfig):
    """A public model name: what callers send as `model`. A name that ends in `*` matches every name that begins so."""

    candidates: Annotated[list[Name], Field(min_length=1)]
    """Deployments that may serve the route, in the order in which they are tried unless `auto` is set."""
    auto: bool = False
    """Choose the tier by the complexity of the request (docs/routing.md)."""
    service_tiers: dict[ServiceTier, TierAction] = {}
    """What happens to requests that ask for a service tier, by tier, `"*"` for all others: `allow`, `strip` (the field is
    taken out) or `refuse`. `fast` is Anthropic's `speed`, and OpenAI's `priority` where that is not named. Unset: `allow`
    where the deployment has a price for the tier or the tier is a cheaper one, else `strip`."""
    inference_geo: TierAction | None = None
    """What happens to requests that ask for a region (`inference_geo`). Unset: `allow`."""


class TaskTypeConfig(_StrictConfig):
    """A kind of work, and how to recognize it. Requests that match none have the task type `other`."""

    words: list[str] = []
    """Words of the user's text that indicate it, in any case."""
    tools: list[str] = []
    """Names of offered tools that indicate it."""
    complexity_shift: Annotated[Number, Field(ge=-10, le=10)] = Decimal(0)
    """Added to the log-odds of the complexity; above 0 for work that is harder than it looks."""


class TierCeilingConfig(_StrictConfig):
    """The ceiling of one tier."""

    max_complexity: Share
    """Highest complexity that the tier serves: the probability that a small model does not suffice. Lower is safer."""


class TiersConfig(_StrictConfig):
    """Ceilings of `auto` routes without a `quality` target; the frontier tier serves the rest."""

    small: TierCeilingConfig | None = None
    """Ceiling of the small tier. Unset: 0.25 with the learned classifier, 0.45 with the transparent one."""
    medium: TierCeilingConfig | None = None
    """Ceiling of the medium tier. Unset: 0.35 with the learned classifier, 0.70 with the transparent one."""


class ScopeConfig(_StrictConfig):
    """Which requests a budget covers: those that match every key. `"*"` gives each value an account of its own."""

    org: str | None = None
    """Organization of the key. Unset: all."""
    team: str | None = None
    """Team of the key. Unset: all."""
    key: str | None = None
    """`id` of the key. Unset: all."""
    user: str | None = None
    """End user that the caller names (`end_users`); requests without one share an account. Unset: all."""
    session: Literal["*"] | None = None
    """Session tree, under the session that was started first. Unset: all."""
    task_type: str | None = None
    """Entry of `task_types`, or `other`. Unset: all."""
    route: str | None = None
    """Entry of `routes`. Unset: all."""
    deployment: str | None = None
    """Entry of `deployments`. Unset: all."""
    model: str | None = None
    """`model` of a deployment. Unset: all."""
    tier: str | None = None
    """Tier of a deployment: small, medium or frontier. Unset: all."""
    provider: str | None = None
    """Entry of `providers`. Unset: all."""


class LimitConfig(_StrictConfig):
    """The limit of a budget; exactly one of the keys. 0 refuses everything."""

    usd: NotNegative | None = None
    """US dollars, at most 4.5 million."""
    tokens: Annotated[int, Field(ge=0)] | None = None
    """Tokens, input and output together."""
    calls: Annotated[int, Field(ge=0)] | None = None
    """Model calls."""
    wh: NotNegative | None = None
    """Energy in watt-hours, at most 1.25 GWh."""
    g_co2e: NotNegative | None = None
    """Carbon in grams of CO2e, at most 4,500 tonnes."""


class DowngradeConfig(_StrictConfig):
    """Restrict requests to cheaper tiers, where they have such a candidate."""

    at: Percent
    """Percent of the limit above which it applies."""
    to: Literal["small", "medium"] = "small"
    """Highest tier that may still be used."""


class ShrinkConfig(_StrictConfig):
    """Lower the output limit of requests to what the budget has left."""

    at: Percent = 100
    """Percent of the limit that the lowered request stays below."""
    min_output_tokens: Annotated[int, Field(ge=16, le=1_000_000)] = 256
    """Tokens below which an output limit is not lowered."""


class QueueConfig(_StrictConfig):
    """Let requests wait until other requests have returned what they held."""

    at: Percent = 100
    """Percent of the limit above which a request waits."""
    seconds: Annotated[Number, Field(gt=0, le=300)]
    """Longest wait in seconds; after it the limit itself decides."""


class StagesConfig(_StrictConfig):
    """What happens before a budget reaches its limit, in percent of the limit."""

    notify: list[Percent] = []
    """Percentages of spending at which a notice is sent (webhook, event, metric), once in each window."""
    downgrade: DowngradeConfig | None = None
    """Restrict requests to cheaper tiers. Unset: never."""
    shrink: ShrinkConfig | None = None
    """Lower output limits. Unset: never."""
    queue: QueueConfig | None = None
    """Let requests wait. Unset: never."""
    refuse: Percent = 100
    """Percent of the limit above which requests are refused."""


class BudgetConfig(_StrictConfig):
    """A hard limit for a scope and a window (docs/budgets.md)."""

    scope: ScopeConfig = ScopeConfig()
    """Requests that the budget covers. Unset: all."""
    limit: LimitConfig
    """Limit of each account in each window."""
    window: Annotated[str, StringConstraints(pattern=_WINDOW)]
    """When the account starts again: `hour`, `day`, `week` (Monday) or `month` of the calendar; `rolling-24h` looks back
    (m, h or d; at most 366 days); `session` and `total` never start again."""
    timezone: str = "UTC"
    """IANA time zone of calendar windows, like Europe/Berlin."""
    stages: StagesConfig = StagesConfig()
    """What happens before the limit is reached. Unset: nothing."""
    hold: Literal["worst_case", "expected"] = "worst_case"
    """Amount that is held for a call until its usage is known: the worst case, which never overspends, or what such calls
    usually take."""
    safety_factor: Annotated[Number, Field(ge=1, le=20)] = Decimal("1.5")
    """With `hold: expected`: multiple of the output that 95 % of such calls stay below."""
    on_store_failure: Literal["closed", "open", "local"] = "closed"
    """While the shared store is down: refuse (`closed`), admit and charge later (`open`), or admit within this replica's
    share of 5 % of the limit (`local`)."""
    mode: Literal["enforce", "shadow"] = "enforce"
    """`shadow` counts and notifies, and refuses nothing."""
    contact: Annotated[str, StringConstraints(max_length=200, pattern=_ONE_LINE)] = ""
    """How to ask for more, at most 200 characters; part of refusals."""


class WebhookConfig(_StrictConfig):
    """Where budget notices and session events are posted as JSON."""

    url: HttpUrl
    """URL that receives the POST requests."""
    secret: SecretRefConfig | None = None
    """Key of the HMAC-SHA256 signature in `x-penstock-signature`. Unset: not signed."""


class NotifyConfig(_StrictConfig):
    """Recipients of budget notices and session events."""

    webhook: WebhookConfig | None = None
    """Webhook. Unset: events are logged and counted only."""


class EndUsersConfig(_StrictConfig):
    """How the end user of a request is identified."""

    headers: list[str] = ["x-penstock-user", "x-litellm-end-user-id", "helicone-user-id"]
    """Headers that name the end user, the first that is present. Without one: the body's `safety_identifier`, `user` or
    `metadata.user_id`."""


class DeferrableConfig(_StrictConfig):
    """Let requests wait for lower carbon intensity; a request's `x-penstock-defer` takes precedence."""

    hours: Annotated[Number, Field(gt=0, le=48)]
    """Hours within which a request is answered."""
    min_gain: Annotated[Number, Field(ge=0, lt=1)] = Decimal("0.2")
    """Share by which the forecast must be below the present intensity for a request to wait."""


class EnergyPolicyConfig(_StrictConfig):
    """How energy and carbon influence which deployment is chosen (docs/energy.md)."""

    carbon_price_usd_per_tonne: NotNegative = Decimal(0)
    """Carbon price in US dollars per tonne of CO2e, added to a candidate's expected cost."""
    energy_price_usd_per_kwh: NotNegative = Decimal(0)
    """Energy price in US dollars per kWh, added to a candidate's expected cost."""
    signal: Literal["average", "marginal"] = "average"
    """Carbon intensity that decisions use; reports always use the average."""
    max_wh_per_request: Positive | None = None
    """Exclude candidates whose expected energy is above this, in Wh, or unknown. Unset: no limit."""
    max_g_co2e_per_request: Positive | None = None
    """Exclude candidates whose expected carbon is above this, in gCO2e, or unknown. Unset: no limit."""
    zones: list[Annotated[str, StringConstraints(pattern=_ZONE_PATTERN)]] = []
    """Grid zones and cloud regions that may serve, `*` matching anything. Empty: all."""
    prefer: Literal["cost", "energy", "carbon"] = "cost"
    """What is minimized among the candidates that suffice; `energy` and `carbon` regardless of cost."""
    lowest_carbon_within_ms: NotNegative | None = None
    """Among candidates of a tier whose first byte is at most so many milliseconds later than the fastest's, prefer the
    grid with the lowest carbon intensity. Unset: not considered."""
    min_gain: Annotated[Number, Field(ge=0, lt=1)] = Decimal("0.2")
    """Smallest saving, as a share, for which `prefer` and `lowest_carbon_within_ms` change the choice."""
    defer: DeferrableConfig | None = None
    """Let requests wait for lower carbon intensity. Unset: only where a request asks for it."""


class TaskTypeEnergyPolicyConfig(EnergyPolicyConfig):
    """The energy policy of one task type; keys that are not given are as in `energy`."""

    task_type: Name
    """Entry of `task_types`, or `other`."""


class EnergyPoliciesConfig(EnergyPolicyConfig):
    """The energy policy, with exceptions by task type."""

    rules: list[TaskTypeEnergyPolicyConfig] = []
    """Exceptions, at most one for each task type."""
    registry: Literal["none", "ecologits"] = "none"
    """Source of model sizes that neither the file nor a model card has: none, or EcoLogits (an extra), much of which is
    estimated."""


class ElectricityMapsConfig(_StrictConfig):
    """Electricity Maps: average carbon intensity, with forecasts where the plan includes them."""

    api_key: SecretRefConfig
    """API key of the account."""
    base_url: HttpUrl | None = None
    """URL of the API. Unset: the public one."""


class WattTimeConfig(_StrictConfig):
    """WattTime: marginal carbon intensity, used for decisions only."""

    user: SecretRefConfig
    """User name of the account."""
    password: SecretRefConfig
    """Password of the account."""
    base_url: HttpUrl | None = None
    """URL of the API. Unset: the public one."""


class UkIntensityConfig(_StrictConfig):
    """Great Britain's carbonintensity.org.uk: average intensity, with a forecast of a day; no key needed."""

    base_url: HttpUrl | None = None
    """URL of the API. Unset: the public one."""


class FeedsConfig(_StrictConfig):
    """Live carbon intensity. Feeds are polled in the background; no request waits for them."""

    electricity_maps: ElectricityMapsConfig | None = None
    """Electricity Maps. Unset: not used."""
    watttime: WattTimeConfig | None = None
    """WattTime. Unset: not used."""
    uk: UkIntensityConfig | None = None
    """carbonintensity.org.uk; `{}` enables it. Unset: not used."""
    refresh_minutes: Annotated[Number, Field(ge=Decimal("0.01"), le=1440)] = Decimal(15)
    """Minutes between two polls."""
    max_age_minutes: Annotated[Number, Field(ge=1, le=1440)] = Decimal(120)
    """Minutes after which a value is discarded and annual averages are used instead."""


class SessionsConfig(_StrictConfig):
    """How the session of a request is identified, and its caps (docs/sessions.md)."""

    caps: SessionTreeCapsConfig = SessionTreeCapsConfig()
    """Caps of a session together with its sub-agents. Unset: none."""
    caps_per_session: SessionCapsConfig = SessionCapsConfig()
    """Caps of every single session, sub-agents included. Unset: none."""
    hold: Literal["expected", "worst_case"] = "expected"
    """Amount that is held on caps for a call until its usage is known: what such calls usually take, or the worst case,
    which never overspends. Applies to the caps of `sessions`, keys and callers."""
    safety_factor: Annotated[Number, Field(ge=1, le=20)] = Decimal("1.5")
    """With `hold: expected`: multiple of the output that 95 % of such calls stay below."""
    headers: list[str] = [
        "x-penstock-session", "x-session-id", "session-id", "session_id", "thread-id", "x-claude-code-session-id",
        "x-session-affinity", "x-task-id", "x-litellm-session-id", "helicone-session-id", "x-*-session-id",
    ]  # fmt: skip
    """Headers that name the session, the first that is present; `*` matches anything."""
    body_fields: list[str] = [
        "client_metadata.session_id", "metadata.session_id", "metadata.user_id", "prompt_cache_key uuid",
    ]  # fmt: skip
    """Body fields that name the session where no header does; `uuid` after a name: only if the value is a UUID."""
    agent_headers: list[str] = ["x-penstock-agent", "x-claude-code-agent-id"]
    """Headers that name a sub-agent within the session."""
    parent_headers: list[str] = ["x-penstock-parent-session"]
    """Headers that name the session that started this one."""
    root_headers: list[str] = ["x-penstock-root-session"]
    """Headers that name the session at the root of the tree."""


class LoopLadderConfig(_StrictConfig):
    """Loop scores at which the steps of the ladder are taken; `null` disables a step."""

    mode: Literal["enforce", "shadow"] = "enforce"
    """`shadow` reports the steps without taking them."""
    warn_at: Score | None = Decimal(3)
    """Score at which responses carry `x-penstock-loop` and an event is recorded."""
    nudge_at: Score | None = Decimal(4)
    """Score at which a note to the model is appended to the request."""
    tier_at: Score | None = None
    """Score at which the session changes to another tier (`tier_move`). Unset: never."""
    tier_move: Literal["escalate", "downgrade"] = "escalate"
    """Direction of the tier change: more capable, or cheaper."""
    answer_at: Score | None = None
    """Score at which one request is sent without tools, for a final answer. Unset: never."""
    hold_at: Score | None = None
    """Score at which the session is refused until a person approves it. Unset: never."""
    hold_seconds: Annotated[Number, Field(ge=0, le=600)] = Decimal(0)
    """Seconds that the request waits for the approval before it is refused."""
    stop_at: Score | None = Decimal(8)
    """Score at which the session is stopped."""
    stop_mode: Literal["error", "answer"] = "error"
    """Response of a stop: an error, or a final answer in place of the model's."""
    statuses: dict[str, Annotated[int, Field(ge=400, le=499)]] = {}
    """HTTP status of a stop by a word of the User-Agent, like {codex: 403}. Others: 400, or 402 on /v1/messages."""
    holdout: Share = Decimal(0)
    """Share of sessions that are observed only, to measure what the loop guard saves."""


class LoopRuleConfig(LoopLadderConfig):
    """The ladder of a route, a task type, or both; keys that are not given are as in `loop_guard`."""

    route: RouteName | None = None
    """Entry of `routes`. Unset: any."""
    task_type: Name | None = None
    """Entry of `task_types`, or `other`. Unset: any."""


class LoopGuardConfig(LoopLadderConfig):
    """The loop guard: detects sessions that repeat themselves (docs/sessions.md)."""

    rules: list[LoopRuleConfig] = []
    """Exceptions by route or task type; the first that matches applies."""
    approval_links: Literal["everywhere", "webhook", "none"] = "everywhere"
    """Where the signed link that resumes a stopped session is given: in refusals and the webhook, in the webhook only, or
    nowhere."""


class QualityConfig(_StrictConfig):
    """A quality target: a floor (`keep`) or a fixed share of frontier requests (`frontier_share`), not both."""

    keep: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """Share of the frontier's quality that is kept at least, as tested on labels (`penstock learn`). Unset: no floor."""
    confidence: Annotated[Number, Field(ge=Decimal("0.5"), lt=1)] = Decimal("0.95")
    """Confidence of the floor."""
    fallback: Literal["frontier", "share"] = "frontier"
    """While the labels do not support the floor: all requests to the frontier, or `fallback_share` of them."""
    fallback_share: Share = Decimal("0.5")
    """Share of requests that go to the frontier with `fallback: share`."""
    frontier_share: Share | None = None
    """Share of requests that go to the frontier, whatever their complexity. Unset: none is fixed."""


class TaskTypeQualityConfig(QualityConfig):
    """The quality target of one task type; keys that are not given are as in `quality`."""

    task_type: Name
    """Entry of `task_types`, or `other`."""


class QualityRulesConfig(QualityConfig):
    """The quality target of `auto` routes; without one the ceilings of `tiers` apply."""

    rules: list[TaskTypeQualityConfig] = []
    """Exceptions, at most one for each task type."""


class CascadeConfig(_StrictConfig):
    """Call the small tier first, and the next one if the answer is doubtful; never for streams (docs/routing.md)."""

    mode: Literal["off", "enforce"] = "off"
    """Whether requests escalate."""
    escalation_share_prior: Share = Decimal("0.2")
    """Share of doubtful answers that is assumed until enough of them were observed."""


class ShadowConfig(_StrictConfig):
    """Shadow calls: a sample of requests is sent to the lowest and the highest tier as well, and a judge compares both."""

    share: Share = Decimal(0)
    """Share of the requests of `auto` routes that are sampled; 0 disables shadow calls."""
    judge: RouteName | None = None
    """Route of the model that compares the answers. Required if `share` is above 0."""
    usd_per_day: Positive = Decimal(5)
    """US dollars for shadow calls in each organization and day, charged to the team `penstock-shadow`."""


class LearningConfig(_StrictConfig):
    """How quality labels are collected from traffic, and used."""

    shadow: ShadowConfig = ShadowConfig()
    """Shadow calls. Unset: none."""
    keep_content: bool = False
    """Keep prompts and answers with the labels, not only their features."""
    labels_max: Annotated[int, Field(ge=1_000, le=10_000_000)] = 200_000
    """Labels that are kept; the oldest are dropped first."""
    refit_minutes: Annotated[Number, Field(ge=1, le=100_000)] | None = Decimal(60)
    """Minutes between two fits of the floors. `null`: only `penstock learn fit` fits them."""


class RoleConfig(_StrictConfig):
    """A role of an agent, like planner or coder; the first that matches applies. The header `x-penstock-role` names one."""

    name: Name
    """Name of the role; unique in the file."""
    agents: list[str] = []
    """Agent names that have the role; shell patterns, like plan*."""
    words: list[str] = []
    """Words that must all be in the system prompt."""
    tools: list[str] = []
    """Names of tools; one of them must be offered."""
    sub_agents: bool = False
    """Match every session that another session started."""
    task_type: Name | None = None
    """Task type of the role's requests. Unset: as classified."""
    complexity_shift: Annotated[Number, Field(ge=-10, le=10)] = Decimal(0)
    """Added to the log-odds of the complexity."""
    tier_min: TierName | None = None
    """Lowest tier that may serve the role. Unset: any."""
    tier_max: TierName | None = None
    """Highest tier that may serve the role. Unset: any."""


class RetriesConfig(_StrictConfig):
    """Retries of a call that failed for a reason that may pass."""

    same_deployment: Annotated[int, Field(ge=0, le=5)] = 1
    """Retries of the same deployment when no other candidate is left."""


class RoutingConfig(_StrictConfig):
    """The top level of the file."""

    version: Literal[1]
    """Version of the file format."""
    access: Literal["keys", "open"] = "keys"
    """Who may call: holders of one of `keys`, or everyone who can reach the port."""
    keys: list[KeyConfig] = []
    """API keys of callers. Required unless `access` is `open`."""
    providers: dict[Name, ProviderConfig]
    """Providers by name."""
    deployments: dict[Name, DeploymentConfig]
    """Deployments by name."""
    routes: Annotated[dict[RouteName, RouteConfig], Field(min_length=1)]
    """Routes by public model name."""
    tiers: TiersConfig = TiersConfig()
    """Complexity ceilings of the tiers. Unset: those of the classifier."""
    quality: QualityRulesConfig = QualityRulesConfig()
    """Quality target of `auto` routes. Unset: the ceilings of `tiers` apply."""
    classifier: Literal["learned", "transparent"] = "learned"
    """How complexity is estimated: by the trained scorer, or by signals and weights that can be read in the code."""
    cascade: CascadeConfig = CascadeConfig()
    """Escalation of doubtful answers. Unset: off."""
    learning: LearningConfig = LearningConfig()
    """Collection and use of quality labels. Unset: no shadow calls."""
    task_types: dict[Name, TaskTypeConfig] = {}
    """Kinds of work by name; ledger, metrics and export are broken down by them."""
    roles: list[RoleConfig] = []
    """Roles of agents, in the order in which they are matched."""
    budgets: dict[Name, BudgetConfig] = {}
    """Budgets by name."""
    energy: EnergyPoliciesConfig = EnergyPoliciesConfig()
    """Energy and carbon policy. Unset: estimated and reported only."""
    feeds: FeedsConfig = FeedsConfig()
    """Feeds of live carbon intensity. Unset: annual averages."""
    end_users: EndUsersConfig = EndUsersConfig()
    """Identification of end users."""
    notify: NotifyConfig = NotifyConfig()
    """Recipients of events. Unset: none."""
    sessions: SessionsConfig = SessionsConfig()
    """Identification and caps of sessions."""
    loop_guard: LoopGuardConfig = LoopGuardConfig()
    """Loop guard. Unset: on, with the defaults of its ladder."""
    retries: RetriesConfig = RetriesConfig()
    """Retries of failed calls."""
