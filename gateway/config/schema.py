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


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SecretRef(_Strict):
    """A secret by reference, never literal: an environment variable or a file."""

    env: str | None = None
    file: str | None = None


class Key(_Strict):
    """A key that callers show, the team that pays."""

    id: Name
    team: Name
    secret: SecretRef


class Provider(_Strict):
    """An API and its account. `speaks` says which of OpenAI's dialects a server has; without it `responses` is tried and
    its absence remembered. `options` and `secrets` are litellm's own parameters (regions, cloud credentials)."""

    dialect: Literal["openai", "anthropic", "litellm"] = "openai"
    base_url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s?#]+$")] | None = None
    api_key: SecretRef | None = None
    speaks: Annotated[list[Literal["chat", "responses", "embeddings", "completions"]], Field(min_length=1)] | None = (
        None
    )
    options: dict[str, str | int | bool] = {}
    secrets: dict[str, SecretRef] = {}


class Rates(_Strict):
    """US dollars per million tokens."""

    input: NotNegative
    output: NotNegative
    cached_input: NotNegative | None = None
    cache_write: NotNegative | None = None
    cache_write_long: NotNegative | None = None
    reasoning: NotNegative | None = None


class Step(Rates):
    """Rates for requests with strictly more input tokens than this."""

    above_input_tokens: Count


class Price(Rates):
    """A price sheet; `steps` are long-context thresholds."""

    steps: list[Step] = []


class Energy(_Strict):
    """What is known about the weights and the machine; billions of parameters."""

    active_params_b: Positive
    total_params_b: Positive | None = None
    bits_per_param: Annotated[Number, Field(ge=1, le=32)] = Decimal(8)
    concurrency: Positive | None = None
    hardware_factor: Positive = Decimal(1)
    pue: Annotated[Number, Field(ge=1, le=3)] | None = None


class Timeouts(_Strict):
    """Seconds."""

    connect: Positive = Decimal(5)
    first_byte: Positive = Decimal(120)
    idle: Positive = Decimal(60)
    total: Positive = Decimal(600)


class Deployment(_Strict):
    """Provider x model x region: the thing that is dialled."""

    provider: Name
    model: ModelName
    tier: Literal["small", "medium", "frontier"]
    price: Price | None = None
    price_list: str | None = None
    energy: Energy | None = None
    zone: str | None = None
    grams_co2e_per_kwh: Annotated[Number, Field(ge=0, le=2000)] | None = None
    context_tokens: Count | None = None
    output_tokens: Count | None = None
    vision: bool | None = None
    tools: bool | None = None
    reasoning: bool | None = None
    adaptive_thinking: bool | None = None
    stream_usage: bool = True
    timeouts: Timeouts = Timeouts()


class Route(_Strict):
    """A public model name. `auto: true` picks the tier by complexity; otherwise candidates are tried in order."""

    candidates: Annotated[list[Name], Field(min_length=1)]
    auto: bool = False


class TaskType(_Strict):
    """How to recognise a kind of work, and how much harder (or easier) it is than it looks, in log-odds."""

    words: list[str] = []
    tools: list[str] = []
    complexity_shift: Annotated[Number, Field(ge=-10, le=10)] = Decimal(0)


class Ceiling(_Strict):
    """The highest complexity that this tier may serve."""

    max_complexity: Share


class Tiers(_Strict):
    """Thresholds of `auto` routes; the frontier takes the rest."""

    small: Ceiling = Ceiling(max_complexity=Decimal("0.45"))
    medium: Ceiling = Ceiling(max_complexity=Decimal("0.70"))


class Scope(_Strict):
    """Which requests a budget covers; "*" gives every value its own account."""

    key: str | None = None
    team: str | None = None
    task_type: str | None = None


class Limit(_Strict):
    """Exactly one of dollars, watt-hours or calls."""

    usd: NotNegative | None = None
    wh: NotNegative | None = None
    calls: Annotated[int, Field(ge=0)] | None = None


class Budget(_Strict):
    """A hard limit for a scope and a calendar window (UTC)."""

    scope: Scope = Scope()
    limit: Limit
    window: Literal["hour", "day", "week", "month", "total"]


class EnergyRules(_Strict):
    """How energy and carbon weigh in the choice."""

    carbon_price_usd_per_tonne: NotNegative = Decimal(0)
    max_wh_per_request: Positive | None = None


class Caps(_Strict):
    """What one session may take."""

    calls: Count | None = None
    usd: NotNegative | None = None
    minutes: Positive | None = None


class Sessions(_Strict):
    """Caps, and the headers that name a session."""

    caps: Caps = Caps()
    headers: list[str] = [
        "x-penstock-session", "x-session-id", "session-id", "session_id", "thread-id", "x-claude-code-session-id",
        "x-session-affinity", "x-task-id", "x-litellm-session-id", "helicone-session-id",
    ]  # fmt: skip


class Loops(_Strict):
    """The loop guard: scores at which it warns and stops."""

    mode: Literal["enforce", "shadow"] = "enforce"
    warn_at: Count = 3
    stop_at: Count = 12


class Retries(_Strict):
    """Tries of the same deployment after a failure that another try may cure, when no other is left."""

    same_deployment: Annotated[int, Field(ge=0, le=5)] = 1


class Document(_Strict):
    """routing.yaml."""

    version: Literal[1]
    access: Literal["keys", "open"] = "keys"
    keys: list[Key] = []
    providers: dict[Name, Provider]
    deployments: dict[Name, Deployment]
    routes: Annotated[dict[RouteName, Route], Field(min_length=1)]
    tiers: Tiers = Tiers()
    task_types: dict[Name, TaskType] = {}
    budgets: dict[Name, Budget] = {}
    energy: EnergyRules = EnergyRules()
    sessions: Sessions = Sessions()
    loops: Loops = Loops()
    retries: Retries = Retries()
