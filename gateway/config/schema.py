"""The shape of routing.yaml. Field docs here become the JSON Schema that editors read (config/routing.schema.json)."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema


def _number(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("must be a number, like 0.15")
    number = Decimal(value)
    if not number.is_finite():
        raise ValueError("must be a finite number")
    return number


Number = Annotated[Decimal, BeforeValidator(_number), WithJsonSchema({"type": "number"})]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Count = Annotated[int, Field(gt=0, le=1_000_000_000)]
# Names travel in headers, labels and account keys.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}$")]


# A public name; one that ends in * stands for every name that begins so.
RouteName = Annotated[str, StringConstraints(pattern=r"^(\*|[A-Za-z0-9][A-Za-z0-9._:/@-]{0,126}\*?)$")]


class _StrictConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SecretRefConfig(_StrictConfig):
    """A secret by reference, never literal: an environment variable or a file."""

    env: str | None = None
    file: str | None = None


class SessionCapsConfig(_StrictConfig):
    """What a session may take: calls, dollars, tokens (input and output), watt-hours."""

    calls: Count | None = None
    usd: NotNegative | None = None
    tokens: Count | None = None
    wh: NotNegative | None = None


class SessionTreeCapsConfig(SessionCapsConfig):
    """What a session may take with all that it starts; minutes of wall clock, how deep its tree may be (1: no sub-agents
    of sub-agents), and how many sub-agents it may have."""

    minutes: Positive | None = None
    depth: Annotated[int, Field(ge=0, le=64)] | None = None
    sub_agents: Annotated[int, Field(ge=0, le=1_000_000)] | None = None


class KeyConfig(_StrictConfig):
    """A key that callers show, the team that pays, and the organisation that the team belongs to: budgets of different
    organisations know nothing of each other. `caps` are tighter ones for its sessions."""

    id: Name
    team: Name
    org: Name = "default"
    secret: SecretRefConfig
    caps: SessionTreeCapsConfig = SessionTreeCapsConfig()


class ProviderConfig(_StrictConfig):
    """An API and its account. `speaks` says which of OpenAI's dialects a server has; without it `responses` is tried and
    its absence remembered. `options` and `secrets` are litellm's own parameters (regions, cloud credentials)."""

    dialect: Literal["openai", "anthropic", "litellm"] = "openai"
    base_url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s?#]+$")] | None = None
    api_key: SecretRefConfig | None = None
    speaks: Annotated[list[Literal["chat", "responses", "embeddings", "completions"]], Field(min_length=1)] | None = (
        None
    )
    options: dict[str, str | int | bool] = {}
    secrets: dict[str, SecretRefConfig] = {}


class RatesConfig(_StrictConfig):
    """US dollars per million tokens."""

    input: NotNegative
    output: NotNegative
    cached_input: NotNegative | None = None
    cache_write: NotNegative | None = None
    cache_write_long: NotNegative | None = None
    reasoning: NotNegative | None = None


class PriceStepConfig(RatesConfig):
    """Rates for requests with strictly more input tokens than this."""

    above_input_tokens: Count


class PriceConfig(RatesConfig):
    """A price sheet; `steps` are long-context thresholds."""

    steps: list[PriceStepConfig] = []


class PriceChangeConfig(PriceConfig):
    """A price sheet that replaces the one before from this day on (00:00 UTC)."""

    effective: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}$")]


HttpUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^\s#]+$")]


class PowerMeterConfig(_StrictConfig):
    """A meter of the GPUs behind a deployment: `dcgm_url` is a DCGM exporter's /metrics, `nvml` reads this machine's own. `gpus`
    are those that serve it (indices or UUIDs; all, if none is named), `idle_watts` what they take together with the model
    loaded and nobody asking: that part is exported as idle, the rest is shared among the requests."""

    dcgm_url: HttpUrl | None = None
    nvml: bool = False
    gpus: list[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,64}$")]] = []
    idle_watts: Annotated[Number, Field(ge=0, le=1_000_000)] = Decimal(0)


class ModelEnergyConfig(_StrictConfig):
    """What is known about the weights and the machine; billions of parameters (without them: the model's card, if it is known).
    `concurrency` is how many sequences a replica serves together, the dominant unknown: declared, or read from a vLLM or
    SGLang server's `metrics_url`, or with `infer_concurrency` from the time between tokens (not where tokens are drafted
    ahead, nor off GPUs). `gpus` is how many serve one
    replica, `engine` the generation of the serving software (vLLM of 2024 takes half as much again)."""

    active_params_b: Annotated[Number, Field(gt=0, le=100_000)] | None = None
    total_params_b: Annotated[Number, Field(gt=0, le=100_000)] | None = None
    bits_per_param: Annotated[Number, Field(ge=1, le=32)] | None = None
    concurrency: Annotated[Number, Field(gt=0, le=1_000_000)] | None = None
    metrics_url: HttpUrl | None = None
    infer_concurrency: bool = False
    hardware: Literal["a100", "h100", "h200", "b200"] | None = None
    hardware_factor: Annotated[Number, Field(gt=0, le=100)] = Decimal(1)
    engine: Literal["2024", "2025"] | None = None
    gpus: Annotated[int, Field(ge=1, le=1024)] | None = None
    pue: Annotated[Number, Field(ge=1, le=3)] | None = None
    power: PowerMeterConfig | None = None


class TimeoutsConfig(_StrictConfig):
    """Seconds."""

    connect: Positive = Decimal(5)
    first_byte: Positive = Decimal(120)
    idle: Positive = Decimal(60)
    total: Positive = Decimal(600)


FeedZone = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class FeedZonesConfig(_StrictConfig):
    """What the deployment's grid is called at each live feed: a zone (DE), a region (CAISO_NORTH), GB or the number of a British
    region."""

    electricity_maps: FeedZone | None = None
    watttime: FeedZone | None = None
    uk: FeedZone | None = None


class DeploymentConfig(_StrictConfig):
    """Provider x model x region: the thing that is dialled. Its grid: `zone` (FRA, USA-oregon) or `cloud_region`
    (gcp/europe-west1), `grams_co2e_per_kwh` where you know better, `feeds` for live values; `market_grams_co2e_per_kwh` is what
    your or the provider's contracts say, reported apart. `batch`: for work that can wait, and for no other."""

    provider: Name
    model: ModelName
    tier: Literal["small", "medium", "frontier"]
    price: PriceConfig | None = None
    price_changes: list[PriceChangeConfig] = []
    price_list: str | None = None
    energy: ModelEnergyConfig | None = None
    zone: str | None = None
    cloud_region: str | None = None
    feeds: FeedZonesConfig = FeedZonesConfig()
    grams_co2e_per_kwh: Annotated[Number, Field(ge=0, le=2000)] | None = None
    market_grams_co2e_per_kwh: Annotated[Number, Field(ge=0, le=2000)] | None = None
    batch: bool = False
    context_tokens: Count | None = None
    output_tokens: Count | None = None
    vision: bool | None = None
    tools: bool | None = None
    json_schema: bool | None = None
    reasoning: bool | None = None
    adaptive_thinking: bool | None = None
    stream_usage: bool = True
    timeouts: TimeoutsConfig = TimeoutsConfig()


class RouteConfig(_StrictConfig):
    """A public model name. `auto: true` picks the tier by complexity; otherwise candidates are tried in order."""

    candidates: Annotated[list[Name], Field(min_length=1)]
    auto: bool = False


class TaskTypeConfig(_StrictConfig):
    """How to recognise a kind of work, and how much harder (or easier) it is than it looks, in log-odds."""

    words: list[str] = []
    tools: list[str] = []
    complexity_shift: Annotated[Number, Field(ge=-10, le=10)] = Decimal(0)


class TierCeilingConfig(_StrictConfig):
    """The highest complexity that this tier may serve."""

    max_complexity: Share


class TiersConfig(_StrictConfig):
    """Thresholds of `auto` routes where no `quality` is asked for; the frontier takes the rest. Without them: 0.25 and 0.35
    with the learned classifier (docs/routing.md has what that keeps), 0.45 and 0.70 with the transparent one."""

    small: TierCeilingConfig | None = None
    medium: TierCeilingConfig | None = None


class ScopeConfig(_StrictConfig):
    """Which requests a budget covers; "*" gives every value its own account. Session means the whole tree under the
    session that was started first; user is whom the caller names (nobody named: an account of its own)."""

    org: str | None = None
    team: str | None = None
    key: str | None = None
    user: str | None = None
    session: Literal["*"] | None = None
    task_type: str | None = None
    route: str | None = None
    deployment: str | None = None
    model: str | None = None
    tier: str | None = None
    provider: str | None = None


class LimitConfig(_StrictConfig):
    """Exactly one of dollars, tokens (input and output), calls, watt-hours or grams of CO2e."""

    usd: NotNegative | None = None
    tokens: Annotated[int, Field(ge=0)] | None = None
    calls: Annotated[int, Field(ge=0)] | None = None
    wh: NotNegative | None = None
    g_co2e: NotNegative | None = None


Percent = Annotated[int, Field(ge=1, le=100)]


class DowngradeConfig(_StrictConfig):
    """From this percentage on only tiers up to `to` may book, where the request has such a candidate."""

    at: Percent
    to: Literal["small", "medium"] = "small"


class ShrinkConfig(_StrictConfig):
    """From this percentage on output limits are lowered to what keeps below it, and to no less than this."""

    at: Percent = 100
    min_output_tokens: Annotated[int, Field(ge=16, le=1_000_000)] = 256


class QueueConfig(_StrictConfig):
    """A call that would pass this percentage waits so long for room; then the limit itself decides."""

    at: Percent = 100
    seconds: Annotated[Number, Field(gt=0, le=300)]


class StagesConfig(_StrictConfig):
    """What happens on the way to the limit, in percent of it. `notify`: webhook, event and metric when so much is spent.
    `refuse`: nothing is booked beyond it."""

    notify: list[Percent] = []
    downgrade: DowngradeConfig | None = None
    shrink: ShrinkConfig | None = None
    queue: QueueConfig | None = None
    refuse: Percent = 100


class BudgetConfig(_StrictConfig):
    """A hard limit for a scope and a window; calendar windows follow `timezone`, `rolling-24h` looks back from now (m, h
    or d), `session` lasts as long as a session's tree.

    `hold`: worst_case never overspends; expected holds `safety_factor` times what such calls usually take, and lets a
    stream extend its hold or ends it (docs/budgets.md has the bounds). `fail`: what happens while the shared store is
    down. `mode: shadow` counts and notifies, and refuses nothing. `contact` tells the agent how to ask for more.
    """

    scope: ScopeConfig = ScopeConfig()
    limit: LimitConfig
    window: Annotated[
        str, StringConstraints(pattern=r"^(hour|day|week|month|total|session|rolling-[1-9][0-9]{0,3}[mhd])$")
    ]
    timezone: str = "UTC"
    stages: StagesConfig = StagesConfig()
    hold: Literal["worst_case", "expected"] = "worst_case"
    safety_factor: Annotated[Number, Field(ge=1, le=20)] = Decimal("1.5")
    fail: Literal["closed", "open", "local"] = "closed"
    mode: Literal["enforce", "shadow"] = "enforce"
    contact: Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\r\n]*$")] = ""


class WebhookConfig(_StrictConfig):
    """Where budget notices are posted as JSON, and the secret that signs them (x-penstock-signature)."""

    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s#]+$")]
    secret: SecretRefConfig | None = None


class NotifyConfig(_StrictConfig):
    """Who is told."""

    webhook: WebhookConfig | None = None


class UsersConfig(_StrictConfig):
    """The headers that name the end user, before the body's own fields (user, safety_identifier, metadata.user_id)."""

    headers: list[str] = ["x-penstock-user", "x-litellm-end-user-id", "helicone-user-id"]


class DeferrableConfig(_StrictConfig):
    """Work of this kind may wait for a greener hour: it is answered within so many hours. It waits only where the forecast
    lies below the present by `min_gain`. A request's own x-penstock-defer counts before this."""

    hours: Annotated[Number, Field(gt=0, le=48)]
    min_gain: Annotated[Number, Field(ge=0, lt=1)] = Decimal("0.2")


class EnergyPolicyConfig(_StrictConfig):
    """How energy and carbon weigh in the choice.

    Prices are added to what a candidate is expected to cost, `signal` says by which intensity carbon is weighed.
    `max_wh_per_request` and `max_g_co2e_per_request` strike what is expected to take more, or of which that is not
    known; `zones` (with `*`) what stands elsewhere. `prefer: energy` or `carbon`: of the candidates that will do the one
    that takes least is first, whatever it costs. `greenest_within_ms`: of those whose first byte comes as soon as the
    quickest's and so much, the one on the cleanest grid. Both act on gains of `min_gain` and more."""

    carbon_price_usd_per_tonne: NotNegative = Decimal(0)
    energy_price_usd_per_kwh: NotNegative = Decimal(0)
    signal: Literal["average", "marginal"] = "average"
    max_wh_per_request: Positive | None = None
    max_g_co2e_per_request: Positive | None = None
    zones: list[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9*_/. -]{1,64}$")]] = []
    prefer: Literal["cost", "energy", "carbon"] = "cost"
    greenest_within_ms: NotNegative | None = None
    min_gain: Annotated[Number, Field(ge=0, lt=1)] = Decimal("0.2")
    defer: DeferrableConfig | None = None


class TaskTypeEnergyPolicyConfig(EnergyPolicyConfig):
    """The same for one task type; what is not said is as in `energy` itself."""

    task_type: Name


class EnergyPoliciesConfig(EnergyPolicyConfig):
    """How energy and carbon weigh in the choice. `rules` are for task types. `registry: ecologits`: weights that no card tells
    are taken from EcoLogits' registry (an extra that must be installed); many of those are guesses, and labelled so."""

    rules: list[TaskTypeEnergyPolicyConfig] = []
    registry: Literal["none", "ecologits"] = "none"


class ElectricityMapsConfig(_StrictConfig):
    """Electricity Maps: location-based average, with forecasts where the plan has them."""

    api_key: SecretRefConfig
    base_url: HttpUrl | None = None


class WattTimeConfig(_StrictConfig):
    """WattTime: the marginal signal, for decisions only."""

    user: SecretRefConfig
    password: SecretRefConfig
    base_url: HttpUrl | None = None


class UkIntensityConfig(_StrictConfig):
    """Great Britain's carbonintensity.org.uk, with a forecast of a day; it wants no key."""

    base_url: HttpUrl | None = None


class FeedsConfig(_StrictConfig):
    """Live carbon intensities, asked behind the requests every `refresh_minutes`. A value older than `max_age_minutes` is not used
    any more: the tables are, and figures say so."""

    electricity_maps: ElectricityMapsConfig | None = None
    watttime: WattTimeConfig | None = None
    uk: UkIntensityConfig | None = None
    refresh_minutes: Annotated[Number, Field(ge=Decimal("0.01"), le=1440)] = Decimal(15)
    max_age_minutes: Annotated[Number, Field(ge=1, le=1440)] = Decimal(120)


class SessionsConfig(_StrictConfig):
    """How a session is known and what it may take. `caps` are for it and all that it starts, `each` for every session
    by itself; a run may ask for tighter ones. `headers` and `body_fields` name a session (`*` stands for anything; a
    `uuid` after a field's name: only where it is one), `agent_headers` a sub-agent within it, `parent_headers` the
    session that started it, and `root_headers` the one at the head of the tree."""

    caps: SessionTreeCapsConfig = SessionTreeCapsConfig()
    each: SessionCapsConfig = SessionCapsConfig()
    headers: list[str] = [
        "x-penstock-session", "x-session-id", "session-id", "session_id", "thread-id", "x-claude-code-session-id",
        "x-session-affinity", "x-task-id", "x-litellm-session-id", "helicone-session-id", "x-*-session-id",
    ]  # fmt: skip
    body_fields: list[str] = [
        "client_metadata.session_id", "metadata.session_id", "metadata.user_id", "prompt_cache_key uuid",
    ]  # fmt: skip
    agent_headers: list[str] = ["x-penstock-agent", "x-claude-code-agent-id"]
    parent_headers: list[str] = ["x-penstock-parent-session"]
    root_headers: list[str] = ["x-penstock-root-session"]


Score = Annotated[Number, Field(gt=0, le=20)]


class LoopLadderConfig(_StrictConfig):
    """The loop guard's ladder: the scores at which it warns, nudges the model, changes the tier, asks for a final
    answer without tools, holds the session for a human, and stops it; `null` leaves a step out. `holdout` is the share
    of sessions that are only observed. `stop_mode: answer` ends a run with a last answer in the model's place.
    `statuses` maps a word of the User-Agent to the status of a stop."""

    mode: Literal["enforce", "shadow"] = "enforce"
    warn_at: Score | None = Decimal(3)
    nudge_at: Score | None = Decimal(4)
    tier_at: Score | None = None
    tier_move: Literal["escalate", "downgrade"] = "escalate"
    answer_at: Score | None = None
    hold_at: Score | None = None
    hold_seconds: Annotated[Number, Field(ge=0, le=600)] = Decimal(0)
    stop_at: Score | None = Decimal(8)
    stop_mode: Literal["error", "answer"] = "error"
    statuses: dict[str, Annotated[int, Field(ge=400, le=499)]] = {}
    holdout: Share = Decimal(0)


class LoopRuleConfig(LoopLadderConfig):
    """Other steps for a route, a task type, or both; what is not said is as in the rest of the file's `loops`."""

    route: RouteName | None = None
    task_type: Name | None = None


class LoopGuardConfig(LoopLadderConfig):
    """The loop guard. `rules` apply to some routes and task types, the first that fits. `approval_links`: where a
    signed link is told by which a person lets the session go on: in refusals and the webhook, in the webhook only, nowhere."""

    rules: list[LoopRuleConfig] = []
    approval_links: Literal["everywhere", "webhook", "none"] = "everywhere"


class QualityConfig(_StrictConfig):
    """What quality is asked for. `keep`: at least this share of the frontier's, with `confidence`; the threshold comes
    from the labels at hand (`penstock learn`), and where those do not carry the claim `fallback` decides: all to the
    frontier, or `fallback_share` of the requests. `frontier_share` instead: so many go there, whatever comes."""

    keep: Annotated[Number, Field(gt=0, lt=1)] | None = None
    confidence: Annotated[Number, Field(ge=Decimal("0.5"), lt=1)] = Decimal("0.95")
    fallback: Literal["frontier", "share"] = "frontier"
    fallback_share: Share = Decimal("0.5")
    frontier_share: Share | None = None


class TaskTypeQualityConfig(QualityConfig):
    """The same for one task type; what is not said is as in `quality` itself."""

    task_type: Name


class QualityRulesConfig(QualityConfig):
    """The quality floor of `auto` routes, or a share that goes to the frontier. Without either the ceilings of `tiers`
    decide. `rules` are for task types."""

    rules: list[TaskTypeQualityConfig] = []


class CascadeConfig(_StrictConfig):
    """Small first, and the next tier if its answer looks doubtful (cut off, a refusal, not in the form asked for): only
    where that is expected to cost less than going there at once, and never for streams. `escalates` is the share of
    doubtful answers that is assumed at first."""

    mode: Literal["off", "enforce"] = "off"
    escalates: Share = Decimal("0.2")


class ShadowConfig(_StrictConfig):
    """A sample of requests is asked of the smallest and the most capable candidate once more, beside the caller, and
    the route `judge` compares the answers, blind and in both orders. Charged to team `penstock-shadow` and to no other budget; `usd_per_day` is for
    each organisation."""

    share: Share = Decimal(0)
    judge: RouteName | None = None
    usd_per_day: Positive = Decimal(5)


class LearningConfig(_StrictConfig):
    """How labels of own traffic are collected and used. Only features of prompts are kept, unless `keep_content`.
    `refit_minutes`: how often floors are fitted anew; null leaves that to `penstock learn fit`."""

    shadow: ShadowConfig = ShadowConfig()
    keep_content: bool = False
    labels_max: Annotated[int, Field(ge=1_000, le=10_000_000)] = 200_000
    refit_minutes: Annotated[Number, Field(ge=1, le=100_000)] | None = Decimal(60)


class RoleConfig(_StrictConfig):
    """A part that an agent plays: planner, coder, critic. Known by the header x-penstock-role, by its agent's name
    (`agents`, shell patterns), by `words` that all stand in its system prompt, by one of its `tools`, as a sub-agent,
    or because an agent like it showed the header before. The first that fits counts."""

    name: Name
    agents: list[str] = []
    words: list[str] = []
    tools: list[str] = []
    sub_agents: bool = False
    task_type: Name | None = None
    complexity_shift: Annotated[Number, Field(ge=-10, le=10)] = Decimal(0)
    tier_min: Literal["small", "medium", "frontier"] | None = None
    tier_max: Literal["small", "medium", "frontier"] | None = None


class RetriesConfig(_StrictConfig):
    """Tries of the same deployment after a failure that another try may cure, when no other is left."""

    same_deployment: Annotated[int, Field(ge=0, le=5)] = 1


class RoutingConfig(_StrictConfig):
    """routing.yaml."""

    version: Literal[1]
    access: Literal["keys", "open"] = "keys"
    keys: list[KeyConfig] = []
    providers: dict[Name, ProviderConfig]
    deployments: dict[Name, DeploymentConfig]
    routes: Annotated[dict[RouteName, RouteConfig], Field(min_length=1)]
    tiers: TiersConfig = TiersConfig()
    quality: QualityRulesConfig = QualityRulesConfig()
    classifier: Literal["learned", "transparent"] = "learned"
    cascade: CascadeConfig = CascadeConfig()
    learning: LearningConfig = LearningConfig()
    task_types: dict[Name, TaskTypeConfig] = {}
    roles: list[RoleConfig] = []
    budgets: dict[Name, BudgetConfig] = {}
    energy: EnergyPoliciesConfig = EnergyPoliciesConfig()
    feeds: FeedsConfig = FeedsConfig()
    users: UsersConfig = UsersConfig()
    notify: NotifyConfig = NotifyConfig()
    sessions: SessionsConfig = SessionsConfig()
    loops: LoopGuardConfig = LoopGuardConfig()
    retries: RetriesConfig = RetriesConfig()
