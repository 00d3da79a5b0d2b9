"""The ledger entry of one call, from which metrics and exports are computed."""

from collections.abc import Mapping

from msgspec import structs

from .base import Value


class LedgerEntry(Value, frozen=True, kw_only=True):
    """The facts of one call. Written once; corrected only by a further entry.

    Money in nUSD, energy in mJ, carbon in ug CO2e, times in ms. Flags are 0 or 1.

    at_ms: since the Unix epoch
    final: 0 for an attempt that may have cost money and was followed by another
    session, root: the session, and the root of its tree
    session_source: how the session was identified
    route, deployment: as configured
    complexity: as classified, in [0, 1]
    attempts: attempts made so far for the request
    outcome: one of OUTCOMES
    status: HTTP status of the answer or refusal; 0: none
    code: error or refusal code, docs/errors.md; "": none
    reason: why this deployment was chosen, or why none was
    usage_basis: exact, estimated or none
    priced: 0 without a price sheet; the charge is then 0 and must be read as unknown
    unpriced_parts: names of tiers, tools and models that are not in the charge, for want of a price; comma-separated
    service_tier: the tier that the answer names, one of usage.SERVICE_TIERS; "": the standard one
    reported_cost_nusd: the cost that the provider reports; 0: none
    hold_nusd: what was held before dialling
    reference_nusd: cost of the same tokens on the route's most capable candidate
    reference_energy_mj, reference_carbon_ug: mid figures of the same tokens there
    footprint_method: how energy and carbon were obtained
    loop_step: step of the ladder that was taken; "": none
    config_hash: generation of the configuration
    org: the tenant
    user: the end user that the caller names
    window_ms: the time by which budget windows were chosen (0 in entries of earlier versions: at_ms)
    grid_zone, grid_grams_per_kwh: the grid's zone and the intensity used
    embodied_ug: the embodied part of carbon_ug_mid
    market_carbon_ug: carbon_ug_mid by market-based accounting
    undeferred_carbon_ug: carbon of the same energy at arrival; carbon_ug_mid where the request was not deferred
    deferred_ms: how long the request waited for a greener hour before at_ms
    concurrency: sequences assumed to be served together; 0: the prior
    energy_scale: metered over modelled energy; 1 without a meter
    translation: the caller's dialect and the provider's, "messages to chat"; "": the same
    answer_losses: what of a translated answer did not reach the caller, "kind: name; kind: name"; "": nothing
    object_ids: ids of what the provider stores of it (a response, a file), separated by spaces; "": nothing
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
    config_hash: str
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
    translation: str = ""
    answer_losses: str = ""
    object_ids: str = ""
    service_tier: str = ""
    reported_cost_nusd: int = 0
    unpriced_parts: str = ""


class Hold(Value, frozen=True, kw_only=True):
    """What is journaled before dialling, so that a crash leaves no call unrecorded.

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
    config_hash: str
    org: str = "default"
    user: str = ""
    root: str = ""
    window_ms: int = 0
    object_ids: str = ""


def expired_entry(hold: Hold) -> LedgerEntry:
    """The entry of a call that was open when the gateway died.

    Charged as held, never silently refunded.
    """
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
        config_hash=hold.config_hash,
        org=hold.org,
        user=hold.user,
        root=hold.root,
        window_ms=hold.window_ms,
        market_carbon_ug=hold.hold_micrograms,
        reference_carbon_ug=hold.hold_micrograms,
        undeferred_carbon_ug=hold.hold_micrograms,
        object_ids=hold.object_ids,
    )


# Columns that exports, metrics and budgets add up; a correction has the difference in each.
AMOUNT_COLUMNS = (
    "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "charge_nusd",
    "reported_cost_nusd", "reference_nusd", "energy_mj_low", "energy_mj_mid", "energy_mj_high", "carbon_ug_low", "carbon_ug_mid",
    "carbon_ug_high", "reference_energy_mj", "embodied_ug", "market_carbon_ug", "reference_carbon_ug",
    "undeferred_carbon_ug",
)  # fmt: skip
_CORRECTION_SUFFIX = ".usage"


def correction_id(entry_id: str) -> str:
    """The id of the entry that corrects another one; there is one at most."""
    return entry_id + _CORRECTION_SUFFIX


def correction_entry(entry: LedgerEntry, actual: Mapping[str, int], *, reason: str, priced: bool) -> LedgerEntry:
    """The entry that corrects an estimated one by what the provider reported later; `priced`: at a known price.

    Its amounts are differences to the `actual` ones, which may be negative. It belongs to the time and the groups of
    the entry that it corrects, so that every sum is right where that one was counted.
    """
    differences = {name: actual[name] - getattr(entry, name) for name in AMOUNT_COLUMNS}
    return structs.replace(
        entry,
        id=correction_id(entry.id),
        final=0,
        outcome="corrected",
        status=0,
        code="",
        reason=reason,
        usage_basis="exact",
        priced=int(priced),
        hold_nusd=0,
        loop_step="",
        first_byte_ms=0,
        deferred_ms=0,
        answer_losses="",
        object_ids="",
        **differences,
    )


# completed: answered in full. refused: by a budget, a cap or the loop guard, nothing was dialled. cancelled: the caller
# hung up. rejected: the provider refused the request itself (its 400, 404, 422); its message was passed on. cut: the
# provider ended or broke the stream. upstream_error: no usable answer. expired: the gateway died between dialling and
# settling; charged as held. corrected: not a call, but the difference between what an estimated one was charged and what
# its provider reported later.
OUTCOMES = ("completed", "refused", "rejected", "cancelled", "cut", "upstream_error", "expired", "corrected")

# Columns that exports group by, and the UTC day or hour of the entry.
GROUP_COLUMNS = (
    "task_type", "tier", "deployment", "provider", "model", "org", "team", "key", "user", "session", "root", "route",
    "outcome", "service_tier", "day", "hour",
)  # fmt: skip
