"""The ledger entry: one immutable fact about one call, everything that metrics and exports are made of."""

from .base import Value


class LedgerEntry(Value, frozen=True, kw_only=True):
    """What one call was, took and cost. Written once; corrected only by a further entry.

    Money in nUSD, energy in mJ, carbon in ug CO2e, times in ms (`at_ms` since the Unix epoch). `outcome` is one of
    OUTCOMES; `usage_basis` is exact, estimated or none; `final` is 0 for an attempt that may have cost money and was
    followed by another. `priced` 0 means that no price sheet was known: the charge is then 0 and must be read as
    unknown. `reference_nusd` is what the same tokens cost on the route's most capable candidate (equal tokens
    assumed). `hold_nusd` is what was set aside before dialling. `org` is the tenant, `user` the end user that the caller
    names, `root` the session at the head of the tree that `session` belongs to. `window_ms` is the time by which its
    budgets' windows were told (0 in entries of earlier versions: at_ms).

    `footprint_method` says how energy and carbon were come by, `grid_grams_per_kwh` by which intensity, of `grid_zone`.
    `embodied_ug` lies within carbon_ug_mid; `market_carbon_ug` is that figure by market-based accounting, apart.
    `reference_energy_mj` and `reference_carbon_ug` are mid figures of the same tokens on the most capable candidate.
    A request that waited for a greener hour did so for `deferred_ms` before at_ms; `undeferred_carbon_ug` is what the same
    energy would have emitted at once (carbon_ug_mid where nothing waited). `concurrency` is how many sequences were taken to
    be served together (0: the prior), `energy_scale` what a meter made of the model.
    """

    id: str
    at_ms: int
    request_id: str
    final: int
    key: str
    team: str
    session: str
    session_source: str
    route: str
    stream: int
    task_type: str
    complexity: float
    tier: str
    provider: str
    deployment: str
    model: str
    attempts: int
    outcome: str
    status: int
    code: str
    reason: str
    usage_basis: str
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    priced: int
    charge_nusd: int
    hold_nusd: int
    reference_nusd: int
    energy_mj_low: int
    energy_mj_mid: int
    energy_mj_high: int
    carbon_ug_low: int
    carbon_ug_mid: int
    carbon_ug_high: int
    reference_energy_mj: int
    footprint_method: str
    loop_step: str
    first_byte_ms: int
    duration_ms: int
    world: str
    org: str = "default"
    user: str = ""
    root: str = ""
    window_ms: int = 0
    grid_zone: str = ""
    grid_grams_per_kwh: float = 0.0
    embodied_ug: int = 0
    market_carbon_ug: int = 0
    reference_carbon_ug: int = 0
    undeferred_carbon_ug: int = 0
    deferred_ms: int = 0
    concurrency: float = 0.0
    energy_scale: float = 1.0


class Hold(Value, frozen=True, kw_only=True):
    """What is written down before dialling: who asks, for what, and the worst case that a crash would leave behind.

    Fields mean what they mean in LedgerEntry; `input_tokens` and `output_tokens` are upper bounds.
    """

    id: str
    at_ms: int
    request_id: str
    key: str
    team: str
    session: str
    session_source: str
    route: str
    stream: int
    task_type: str
    complexity: float
    tier: str
    provider: str
    deployment: str
    model: str
    attempts: int
    reason: str
    input_tokens: int
    output_tokens: int
    priced: int
    hold_nusd: int
    hold_millijoules: int
    hold_micrograms: int
    world: str
    org: str = "default"
    user: str = ""
    root: str = ""
    window_ms: int = 0


def expired_entry(hold: Hold) -> LedgerEntry:
    """The entry of a call that was open when the gateway died: charged as held, never refunded in silence."""
    return LedgerEntry(
        id=hold.id,
        at_ms=hold.at_ms,
        request_id=hold.request_id,
        final=1,
        key=hold.key,
        team=hold.team,
        session=hold.session,
        session_source=hold.session_source,
        route=hold.route,
        stream=hold.stream,
        task_type=hold.task_type,
        complexity=hold.complexity,
        tier=hold.tier,
        provider=hold.provider,
        deployment=hold.deployment,
        model=hold.model,
        attempts=hold.attempts,
        outcome="expired",
        status=0,
        code="expired",
        reason=hold.reason,
        usage_basis="estimated",
        input_tokens=hold.input_tokens,
        cached_input_tokens=0,
        cache_write_tokens=0,
        output_tokens=hold.output_tokens,
        reasoning_tokens=0,
        priced=hold.priced,
        charge_nusd=hold.hold_nusd,
        hold_nusd=hold.hold_nusd,
        reference_nusd=hold.hold_nusd,
        energy_mj_low=hold.hold_millijoules,
        energy_mj_mid=hold.hold_millijoules,
        energy_mj_high=hold.hold_millijoules,
        carbon_ug_low=hold.hold_micrograms,
        carbon_ug_mid=hold.hold_micrograms,
        carbon_ug_high=hold.hold_micrograms,
        reference_energy_mj=hold.hold_millijoules,
        footprint_method="held",
        loop_step="",
        first_byte_ms=0,
        duration_ms=0,
        world=hold.world,
        org=hold.org,
        user=hold.user,
        root=hold.root,
        window_ms=hold.window_ms,
        market_carbon_ug=hold.hold_micrograms,
        reference_carbon_ug=hold.hold_micrograms,
        undeferred_carbon_ug=hold.hold_micrograms,
    )


# completed: answered in full. refused: a budget, cap or loop said no, nothing was dialled. cancelled: the caller hung
# up. rejected: the provider refused the request itself (its 400, 404, 422), and its words were passed on. cut: the
# provider ended or broke the stream. upstream_error: no usable answer. expired: the gateway died between dialling and
# settling; charged as held.
OUTCOMES = ("completed", "refused", "rejected", "cancelled", "cut", "upstream_error", "expired")

# What an export can be broken down by: columns of the entry, and the UTC day or hour it falls on.
GROUP_COLUMNS = (
    "task_type", "tier", "deployment", "provider", "model", "org", "team", "key", "user", "session", "root", "route",
    "outcome", "day", "hour",
)  # fmt: skip
