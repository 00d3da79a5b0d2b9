"""The budgets of a routing file: scopes, limits in integer units, windows, and the stages on the way to the limit."""

from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from ..values import budget as values
from ..values.budget import Measure
from ..values.catalog import Tier
from ..values.quality import SHADOW_KEY
from ..values.request import Caller
from ..values.units import MICROGRAMS_PER_GRAM, MILLIJOULES_PER_WH
from . import schema
from .reader import ConfigReader, did_you_mean, to_nusd
from .yaml_tree import YamlPath

# The budgets that session caps are.
_CAP_BUDGET_NAMES = {
    f"{kind}-{unit}" for kind in values.CAP_PREFIXES for unit in (*values.CAP_MEASURES, "sub-agents")
}  # fmt: skip
_SECONDS_PER_UNIT = {"m": 60, "h": 3600, "d": 86_400}
# A rolling window's steps are remembered one by one, and accounts as long.
_ROLLING_SECONDS_MAX = 366 * 86_400
# What ties a request to one organisation, whose budgets lie together.
_TENANT_DIMENSIONS = ("org", "team", "key")


def budgets_of(
    reader: ConfigReader, document: schema.RoutingConfig, *, open_caller: Caller
) -> tuple[values.Budget, ...]:
    """Every budget that can be understood; what is wrong is complained about."""
    known = _known_values(reader, document, open_caller)
    found = []
    for name, doc in _budget_configs(reader, document).items():
        path: YamlPath = ("budgets", name)
        if name in _CAP_BUDGET_NAMES:
            reader.complain(path, f"'{name}' is what a session cap is called; choose another name", at_key=True)
        scope = _scope(reader, document, doc, known, path, open_caller)
        limit = _limit(reader, doc.limit, (*path, "limit"))
        if limit is None:
            continue
        measure, amount = limit
        expected = doc.hold == "expected"
        if doc.stages.shrink is not None and measure is Measure.calls:
            reader.complain(
                (*path, "stages", "shrink"), "a call stays one call however short it is; leave 'shrink' out"
            )
        if expected and measure is Measure.calls:
            reader.note(
                path, f"budget '{name}' counts calls, of which each holds one: 'hold: expected' changes nothing"
            )
        found.append(
            values.Budget(
                name=name,
                scope=scope,
                measure=measure,
                limit=amount,
                refuse_above=amount * doc.stages.refuse // 100,
                window=_window(reader, doc, path),
                thresholds=_stages(doc.stages, amount),
                expected_factor=float(doc.safety_factor) if expected else 0.0,
                store_failure_mode=doc.fail,
                is_shadow=doc.mode == "shadow",
                contact=doc.contact,
            )
        )
    return tuple(found)


def _budget_configs(reader: ConfigReader, document: schema.RoutingConfig) -> dict[str, schema.BudgetConfig]:
    """The budgets of the file, and the one that bounds shadow calls."""
    shadow = document.learning.shadow
    if SHADOW_KEY in document.budgets:
        reader.complain(
            ("budgets", SHADOW_KEY), f"'{SHADOW_KEY}' is what bounds shadow calls; set learning.shadow.usd_per_day"
        )
    if not shadow.share:
        return document.budgets
    # Of several organisations each has an account of its own.
    several = len({key.org for key in document.keys} | ({"default"} if document.access == "open" else set())) > 1
    bound = schema.BudgetConfig(
        scope=schema.ScopeConfig(org="*" if several else None, team=SHADOW_KEY),
        limit=schema.LimitConfig(usd=shadow.usd_per_day),
        window="day",
    )
    return {**document.budgets, SHADOW_KEY: bound}


def session_caps_of(
    reader: ConfigReader, tree: schema.SessionTreeCapsConfig, each: schema.SessionCapsConfig | None, path: YamlPath
) -> values.SessionCaps:
    """What a session may take, with all that it starts and by itself."""
    return values.SessionCaps(
        tree_budgets=_cap_budgets(reader, "session", tree, (*path, "caps")),
        session_budgets=_cap_budgets(reader, "each", each, (*path, "each")) if each is not None else (),
        sub_agent_budget=values.cap_budget("session", "sub-agents", tree.sub_agents)
        if tree.sub_agents is not None
        else None,
        duration_seconds_max=float(tree.minutes) * 60 if tree.minutes is not None else None,
        depth_max=tree.depth,
    )


def _cap_budgets(
    reader: ConfigReader, kind: str, doc: schema.SessionCapsConfig, path: YamlPath
) -> tuple[values.Budget, ...]:
    found = []
    for unit, measure in values.CAP_MEASURES.items():
        asked = getattr(doc, unit)
        if asked is not None:
            amount = (
                to_nusd(reader, asked, (*path, unit))
                if measure is Measure.nusd
                else int(asked * values.MEASURE_UNITS[measure][1])
            )
            found.append(values.cap_budget(kind, unit, amount))
    return tuple(found)


def _known_values(reader: ConfigReader, document: schema.RoutingConfig, open_caller: Caller) -> dict[str, set[str]]:
    """What the file itself names, by dimension."""
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
    known: dict[str, set[str]],
    path: YamlPath,
    open_caller: Caller,
) -> dict[str, str]:
    scope = {dimension: value for dimension, value in doc.scope.model_dump().items() if value is not None}
    for dimension, value in scope.items():
        names = known.get(dimension)
        if value != "*" and names is not None and value not in names:
            reader.complain((*path, "scope", dimension), f"unknown {dimension} '{value}'{did_you_mean(value, names)}")
    if doc.window == "session":
        scope.setdefault("session", "*")
    if "session" in scope:
        # Callers choose their sessions' names: those of one key say nothing about another's.
        scope.setdefault("key", "*")
    if "user" in scope and not set(_TENANT_DIMENSIONS) & set(scope):
        scope["org"] = "*"
    orgs = {key.org for key in document.keys} | ({open_caller.org} if document.access == "open" else set())
    if len(orgs) > 1 and not set(_TENANT_DIMENSIONS) & set(scope):
        reader.complain(
            path,
            "this budget spans organisations, which are kept apart; name one in its scope, or give each its own "
            'account with {org: "*"}',
        )
    return scope


def _limit(reader: ConfigReader, doc: schema.LimitConfig, path: YamlPath) -> tuple[Measure, int] | None:
    given: list[tuple[str, Any]] = [(unit, value) for unit, value in doc.model_dump().items() if value is not None]
    if len(given) != 1:
        reader.complain(path, "give exactly one of usd, tokens, calls, wh or g_co2e")
        return None
    unit, value = given[0]
    if unit == "usd":
        measure, amount = Measure.nusd, to_nusd(reader, value, (*path, unit))
    elif unit == "wh":
        measure, amount = Measure.millijoules, int(value * MILLIJOULES_PER_WH)
    elif unit == "g_co2e":
        measure, amount = Measure.micrograms, int(value * MICROGRAMS_PER_GRAM)
    else:
        measure, amount = Measure[unit], int(value)
    if value and not amount:
        reader.complain((*path, unit), "this is less than can be counted; 0 refuses everything")
        return None
    if amount > values.LIMIT_MAX:
        reader.complain((*path, unit), "this is more than can be counted exactly (4.5 million dollars, 1.25 GWh)")
        return None
    return measure, amount


def _window(reader: ConfigReader, doc: schema.BudgetConfig, path: YamlPath) -> values.Window:
    kind, _, length = doc.window.partition("-")
    seconds = int(length[:-1]) * _SECONDS_PER_UNIT[length[-1]] if length else 0
    if seconds > _ROLLING_SECONDS_MAX:
        reader.complain((*path, "window"), "a rolling window may be 366 days long at most")
    if doc.timezone != "UTC" and kind in ("rolling", "total", "session"):
        reader.complain((*path, "timezone"), f"'timezone' is for calendar windows; a {kind} one has none")
    return values.Window(kind=kind, zone=_timezone(reader, doc.timezone, (*path, "timezone")), seconds=seconds)


def _timezone(reader: ConfigReader, name: str, path: YamlPath) -> ZoneInfo | None:
    if name == "UTC":
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        reader.complain(path, f"unknown time zone '{name}'{did_you_mean(name, available_timezones())}")
        return None


def _stages(doc: schema.StagesConfig, limit: int) -> values.BudgetThresholds:
    def at(percent: int) -> int:
        return limit * percent // 100

    if doc == schema.StagesConfig(refuse=doc.refuse):
        return values.NO_THRESHOLDS
    return values.BudgetThresholds(
        notify_at=tuple((percent, at(percent)) for percent in sorted(set(doc.notify))),
        downgrade_above=at(doc.downgrade.at) if doc.downgrade else None,
        downgrade_tier_max=Tier[doc.downgrade.to] if doc.downgrade else Tier.small,
        shrink_above=min(at(doc.shrink.at), at(doc.refuse)) if doc.shrink else None,
        output_tokens_min=doc.shrink.min_output_tokens if doc.shrink else values.NO_THRESHOLDS.output_tokens_min,
        queue_above=at(doc.queue.at) if doc.queue else None,
        queue_seconds=float(doc.queue.seconds) if doc.queue else 0.0,
    )
