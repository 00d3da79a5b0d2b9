"""The budgets of a routing file: scopes, limits in integer units, windows and stages."""

from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from ..values import budget as values
from ..values.budget import Measure
from ..values.catalog import Tier
from ..values.quality import SHADOW_KEY
from ..values.request import Caller
from ..values.units import MICROGRAMS_PER_GRAM, MILLIJOULES_PER_WH
from . import schema
from .reader import ConfigReader, check_name, did_you_mean, to_nusd
from .yaml_tree import YamlPath

# Names of the budgets that session caps become.
_CAP_BUDGET_NAMES = {
    f"{kind}-{unit}" for kind in values.CAP_NAME_PREFIXES for unit in (*values.CAP_MEASURES, "sub-agents")
}  # fmt: skip
_SECONDS_PER_UNIT = {"m": 60, "h": 3600, "d": 86_400}
# Stores keep the steps of a rolling window one by one for as long as it is.
_ROLLING_SECONDS_MAX = 366 * 86_400
# Scope dimensions that confine a budget to one organization, whose budgets are stored together.
_TENANT_DIMENSIONS = ("org", "team", "key")


def budgets_of(
    reader: ConfigReader, document: schema.RoutingConfig, *, open_caller: Caller
) -> tuple[values.Budget, ...]:
    """Every valid budget of the file; mistakes become problems."""
    names_by_dimension = _names_by_dimension(reader, document, open_caller)
    budgets = []
    for name, doc in _budget_configs(reader, document).items():
        path: YamlPath = ("budgets", name)
        if name in _CAP_BUDGET_NAMES:
            reader.add_problem(
                path, f"budget name '{name}' is reserved for a session cap; choose another name", at_key=True
            )
        scope = _scope(reader, document, doc, names_by_dimension, path, open_caller)
        limit = _limit(reader, doc.limit, (*path, "limit"))
        if limit is None:
            continue
        measure, amount = limit
        expected = doc.hold == "expected"
        if doc.stages.shrink is not None and measure is Measure.calls:
            reader.add_problem(
                (*path, "stages", "shrink"), "'shrink' does not apply to a limit in calls; leave 'shrink' out"
            )
        if expected and measure is Measure.calls:
            reader.add_note(path, f"budget '{name}' has a limit in calls; 'hold: expected' has no effect on it")
        budgets.append(
            values.Budget(
                name=name,
                scope=scope,
                measure=measure,
                limit=amount,
                refuse_above=amount * doc.stages.refuse // 100,
                window=_window(reader, doc, path),
                thresholds=_stages(doc.stages, amount),
                expected_factor=float(doc.safety_factor) if expected and measure is not Measure.calls else 0.0,
                store_failure_mode=doc.on_store_failure,
                is_shadow=doc.mode == "shadow",
                contact=doc.contact,
            )
        )
    return tuple(budgets)


def _budget_configs(reader: ConfigReader, document: schema.RoutingConfig) -> dict[str, schema.BudgetConfig]:
    """The budgets of the file, and that of shadow calls."""
    shadow = document.learning.shadow
    if SHADOW_KEY in document.budgets:
        reader.add_problem(
            ("budgets", SHADOW_KEY),
            f"budget name '{SHADOW_KEY}' is reserved for shadow calls; set learning.shadow.usd_per_day",
        )
    if not shadow.share:
        return document.budgets
    has_several_orgs = (
        len({key.org for key in document.keys} | ({"default"} if document.access == "open" else set())) > 1
    )
    shadow_budget = schema.BudgetConfig(
        scope=schema.ScopeConfig(org="*" if has_several_orgs else None, team=SHADOW_KEY),
        limit=schema.LimitConfig(usd=shadow.usd_per_day),
        window="day",
    )
    return {**document.budgets, SHADOW_KEY: shadow_budget}


def session_caps_of(reader: ConfigReader, sessions: schema.SessionsConfig) -> values.SessionCaps:
    """Caps of a session with its sub-agents, and of each session by itself."""
    factor, each = _cap_factor(sessions), sessions.caps_per_session
    return replace(
        _tree_caps(reader, sessions.caps, ("sessions", "caps"), factor),
        session_budgets=_cap_budgets(reader, "each", each, ("sessions", "caps_per_session"), factor),
    )


def key_caps_of(
    reader: ConfigReader, sessions: schema.SessionsConfig, caps: schema.SessionTreeCapsConfig, path: YamlPath
) -> values.SessionCaps:
    """Caps of one key's sessions."""
    return _tree_caps(reader, caps, path, _cap_factor(sessions))


def _cap_factor(sessions: schema.SessionsConfig) -> float:
    return float(sessions.safety_factor) if sessions.hold == "expected" else 0.0


def _tree_caps(
    reader: ConfigReader, tree: schema.SessionTreeCapsConfig, path: YamlPath, factor: float
) -> values.SessionCaps:
    return values.SessionCaps(
        tree_budgets=_cap_budgets(reader, "session", tree, path, factor),
        sub_agent_budget=values.cap_budget("session", "sub-agents", tree.sub_agents)
        if tree.sub_agents is not None
        else None,
        duration_seconds_max=float(tree.minutes) * 60 if tree.minutes is not None else None,
        depth_max=tree.depth,
        own_expected_factor=factor,
    )


def _cap_budgets(
    reader: ConfigReader, kind: str, doc: schema.SessionCapsConfig, path: YamlPath, factor: float
) -> tuple[values.Budget, ...]:
    budgets = []
    for unit, measure in values.CAP_MEASURES.items():
        cap = getattr(doc, unit)
        if cap is not None:
            amount = (
                to_nusd(reader, cap, (*path, unit))
                if measure is Measure.nusd
                else int(cap * values.MEASURE_UNITS[measure][1])
            )
            budgets.append(values.cap_budget(kind, unit, amount, expected_factor=factor))
    return tuple(budgets)


def _names_by_dimension(
    reader: ConfigReader, document: schema.RoutingConfig, open_caller: Caller
) -> dict[str, set[str]]:
    """The values that a scope may name, for each dimension that the file decides."""
    deployments = document.deployments.values()
    return {
        "org": {key.org for key in document.keys} | {open_caller.org},
        "team": {key.team for key in document.keys} | {open_caller.team, SHADOW_KEY},
        "key": {key.id for key in document.keys} | {open_caller.key, SHADOW_KEY},
        "task_type": {*reader.raw_section("task_types"), "other"},
        "route": set(reader.raw_section("routes")),
        "deployment": set(reader.raw_section("deployments")),
        "model": {deployment.model for deployment in deployments},
        "tier": {tier.name for tier in Tier},
        "provider": set(reader.raw_section("providers")),
    }


def _scope(
    reader: ConfigReader,
    document: schema.RoutingConfig,
    doc: schema.BudgetConfig,
    names_by_dimension: dict[str, set[str]],
    path: YamlPath,
    open_caller: Caller,
) -> dict[str, str]:
    scope = {dimension: value for dimension, value in doc.scope.model_dump().items() if value is not None}
    for dimension, value in scope.items():
        if value != "*" and dimension in names_by_dimension:
            check_name(reader, dimension, value, names_by_dimension[dimension], (*path, "scope", dimension))
    if doc.window == "session":
        scope.setdefault("session", "*")
    if "session" in scope:
        # Callers choose session names, so that equal names of two keys are two sessions.
        scope.setdefault("key", "*")
    if "user" in scope and not set(_TENANT_DIMENSIONS) & set(scope):
        scope["org"] = "*"
    orgs = {key.org for key in document.keys} | ({open_caller.org} if document.access == "open" else set())
    if len(orgs) > 1 and not set(_TENANT_DIMENSIONS) & set(scope):
        reader.add_problem(
            path,
            "budget spans organizations, which are accounted separately; name one in its scope, or give each an "
            'account of its own with {org: "*"}',
        )
    return scope


def _limit(reader: ConfigReader, doc: schema.LimitConfig, path: YamlPath) -> tuple[Measure, int] | None:
    amounts: list[tuple[str, Any]] = [(unit, value) for unit, value in doc.model_dump().items() if value is not None]
    if len(amounts) != 1:
        reader.add_problem(path, "limit must have exactly one of usd, tokens, calls, wh and g_co2e")
        return None
    unit, value = amounts[0]
    if unit == "usd":
        measure, amount = Measure.nusd, to_nusd(reader, value, (*path, unit))
    elif unit == "wh":
        measure, amount = Measure.millijoules, int(value * MILLIJOULES_PER_WH)
    elif unit == "g_co2e":
        measure, amount = Measure.micrograms, int(value * MICROGRAMS_PER_GRAM)
    else:
        measure, amount = Measure[unit], int(value)
    if value and not amount:
        reader.add_problem((*path, unit), f"'{unit}' is less than can be counted; use 0 to refuse everything")
        return None
    if amount > values.LIMIT_MAX:
        reader.add_problem(
            (*path, unit),
            f"'{unit}' is more than can be counted exactly; use at most 4.5 million USD, 1.25 GWh or 4,500 t CO2e",
        )
        return None
    return measure, amount


def _window(reader: ConfigReader, doc: schema.BudgetConfig, path: YamlPath) -> values.Window:
    kind, _, length = doc.window.partition("-")
    seconds = int(length[:-1]) * _SECONDS_PER_UNIT[length[-1]] if length else 0
    if seconds > _ROLLING_SECONDS_MAX:
        reader.add_problem((*path, "window"), f"'window' must be at most 366 days, not {doc.window}")
    if doc.timezone != "UTC" and kind in ("rolling", "total", "session"):
        reader.add_problem(
            (*path, "timezone"),
            f"'timezone' applies to calendar windows (hour, day, week, month), not to '{doc.window}'; remove it",
        )
    return values.Window(kind=kind, zone=_timezone(reader, doc.timezone, (*path, "timezone")), seconds=seconds)


def _timezone(reader: ConfigReader, name: str, path: YamlPath) -> ZoneInfo | None:
    if name == "UTC":
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        reader.add_problem(path, f"unknown time zone '{name}'{did_you_mean(name, available_timezones())}")
        return None


def _stages(doc: schema.StagesConfig, limit: int) -> values.BudgetThresholds:
    def amount_of(percent: int) -> int:
        return limit * percent // 100

    if doc == schema.StagesConfig(refuse=doc.refuse):
        return values.NO_THRESHOLDS
    return values.BudgetThresholds(
        notify_at=tuple((percent, amount_of(percent)) for percent in sorted(set(doc.notify))),
        downgrade_above=amount_of(doc.downgrade.at) if doc.downgrade else None,
        downgrade_tier_max=Tier[doc.downgrade.to] if doc.downgrade else Tier.small,
        shrink_above=min(amount_of(doc.shrink.at), amount_of(doc.refuse)) if doc.shrink else None,
        output_tokens_min=doc.shrink.min_output_tokens if doc.shrink else values.NO_THRESHOLDS.output_tokens_min,
        queue_above=amount_of(doc.queue.at) if doc.queue else None,
        queue_seconds=float(doc.queue.seconds) if doc.queue else 0.0,
    )
