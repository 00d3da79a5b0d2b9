"""The energy policy and the grid feeds of a routing file."""

from collections.abc import Collection

from ..feeds import intensity_electricity_maps, intensity_uk, intensity_watttime
from ..feeds.package_data import is_installed
from ..values.energy_policy import Deferral, EnergyPolicy, EnergyPreferences
from ..values.extras import install_hint
from ..values.grid_feeds import FeedAccess, GridFeeds
from ..values.units import MICROGRAMS_PER_GRAM, MILLIJOULES_PER_WH
from . import schema
from .reader import ConfigReader, check_task_type, to_nusd
from .yaml_tree import YamlPath

_KG_PER_TONNE = 1000
_SECONDS_PER_HOUR, _SECONDS_PER_MINUTE = 3600.0, 60.0


def energy_policy_of(
    reader: ConfigReader, doc: schema.EnergyPoliciesConfig, task_types: Collection[str]
) -> EnergyPolicy:
    """Energy preferences by task type; mistakes become problems."""
    if doc.registry == "ecologits" and not is_installed("ecologits"):
        reader.add_problem(("energy", "registry"), f"registry 'ecologits': {install_hint('ecologits')}")
    by_task_type: dict[str, EnergyPreferences] = {}
    for index, rule in enumerate(doc.rules):
        path: YamlPath = ("energy", "rules", index)
        check_task_type(reader, rule.task_type, task_types, (*path, "task_type"))
        if rule.task_type in by_task_type:
            reader.add_problem((*path, "task_type"), f"task type '{rule.task_type}' has a rule above; keep one of them")
        merged = {name: getattr(doc, name) for name in schema.EnergyPolicyConfig.model_fields}
        merged |= {name: getattr(rule, name) for name in rule.model_fields_set if name != "task_type"}
        by_task_type[rule.task_type] = _preferences(reader, schema.EnergyPolicyConfig.model_construct(**merged), path)
    return EnergyPolicy(default=_preferences(reader, doc, ("energy",)), by_task_type=by_task_type)


def _preferences(reader: ConfigReader, doc: schema.EnergyPolicyConfig, path: YamlPath) -> EnergyPreferences:
    return EnergyPreferences(
        carbon_nusd_per_kg=to_nusd(
            reader, doc.carbon_price_usd_per_tonne / _KG_PER_TONNE, (*path, "carbon_price_usd_per_tonne")
        ),
        energy_nusd_per_kwh=to_nusd(reader, doc.energy_price_usd_per_kwh, (*path, "energy_price_usd_per_kwh")),
        carbon_signal=doc.signal,
        energy_millijoules_max=int(doc.max_wh_per_request * MILLIJOULES_PER_WH) if doc.max_wh_per_request else None,
        carbon_micrograms_max=int(doc.max_g_co2e_per_request * MICROGRAMS_PER_GRAM)
        if doc.max_g_co2e_per_request
        else None,
        allowed_zones=tuple(doc.zones),
        prefer=doc.prefer,
        cleanest_within_ms=float(doc.lowest_carbon_within_ms) if doc.lowest_carbon_within_ms is not None else None,
        gain_share_min=float(doc.min_gain),
        deferral=Deferral(
            wait_seconds_max=float(doc.defer.hours) * _SECONDS_PER_HOUR, gain_share_min=float(doc.defer.min_gain)
        )
        if doc.defer is not None
        else None,
    )


def feeds_of(reader: ConfigReader, document: schema.RoutingConfig) -> GridFeeds:
    """The configured live feeds with their URLs and credentials, and how often they are polled."""
    doc, access = document.feeds, {}
    if doc.electricity_maps is not None:
        access["electricity_maps"] = FeedAccess(
            base_url=_base_url(doc.electricity_maps.base_url, intensity_electricity_maps.BASE_URL),
            key=reader.secret(doc.electricity_maps.api_key, ("feeds", "electricity_maps", "api_key")),
        )
    if doc.watttime is not None:
        access["watttime"] = FeedAccess(
            base_url=_base_url(doc.watttime.base_url, intensity_watttime.BASE_URL),
            user=reader.secret(doc.watttime.user, ("feeds", "watttime", "user")),
            password=reader.secret(doc.watttime.password, ("feeds", "watttime", "password")),
        )
    if doc.uk is not None:
        access["uk"] = FeedAccess(base_url=_base_url(doc.uk.base_url, intensity_uk.BASE_URL))
    return GridFeeds(
        access_by_feed=access,
        refresh_seconds=float(doc.refresh_minutes) * _SECONDS_PER_MINUTE,
        reading_age_seconds_max=float(doc.max_age_minutes) * _SECONDS_PER_MINUTE,
    )


def _base_url(given: str | None, default: str) -> str:
    return (given or default).rstrip("/")
