"""What a routing file says about energy and carbon: how they weigh, and where news of the grids come from."""

from collections.abc import Collection

from ..feeds import intensity_electricity_maps, intensity_uk, intensity_watttime
from ..values.energy_policy import Deferral, Green, GreenPolicy
from ..values.grid_feeds import Access, Feeds
from ..values.quality import OTHER
from ..values.units import MICROGRAMS_PER_GRAM, MILLIJOULES_PER_WH
from . import schema
from .reader import Reader, nusd
from .yaml_tree import Path

_KG_PER_TONNE = 1000
_SECONDS_PER_HOUR, _SECONDS_PER_MINUTE = 3600.0, 60.0


def green(reader: Reader, doc: schema.EnergyRules, task_types: Collection[str]) -> GreenPolicy:
    """How energy and carbon weigh, by task type."""
    by_task_type: dict[str, Green] = {}
    for place, rule in enumerate(doc.rules):
        path: Path = ("energy", "rules", place)
        if rule.task_type not in {*task_types, OTHER}:
            reader.complain((*path, "task_type"), f"there is no task type '{rule.task_type}'")
        if rule.task_type in by_task_type:
            reader.complain((*path, "task_type"), f"task type '{rule.task_type}' has a rule above")
        said = {name: getattr(doc, name) for name in schema.EnergyRule.model_fields}
        said |= {name: getattr(rule, name) for name in rule.model_fields_set if name != "task_type"}
        by_task_type[rule.task_type] = _green(reader, schema.EnergyRule.model_construct(**said), path)
    return GreenPolicy(default=_green(reader, doc, ("energy",)), by_task_type=by_task_type)


def _green(reader: Reader, doc: schema.EnergyRule, path: Path) -> Green:
    return Green(
        carbon_nusd_per_kg=nusd(
            reader, doc.carbon_price_usd_per_tonne / _KG_PER_TONNE, (*path, "carbon_price_usd_per_tonne")
        ),
        energy_nusd_per_kwh=nusd(reader, doc.energy_price_usd_per_kwh, (*path, "energy_price_usd_per_kwh")),
        signal=doc.signal,
        max_millijoules=int(doc.max_wh_per_request * MILLIJOULES_PER_WH) if doc.max_wh_per_request else None,
        max_micrograms=int(doc.max_g_co2e_per_request * MICROGRAMS_PER_GRAM) if doc.max_g_co2e_per_request else None,
        zones=tuple(doc.zones),
        prefer=doc.prefer,
        greenest_within_ms=float(doc.greenest_within_ms) if doc.greenest_within_ms is not None else None,
        gain_min=float(doc.min_gain),
        deferral=Deferral(seconds=float(doc.defer.hours) * _SECONDS_PER_HOUR, gain_min=float(doc.defer.min_gain))
        if doc.defer is not None
        else None,
    )


def feeds(reader: Reader, document: schema.Document) -> Feeds:
    """The live feeds, and what they want to be shown."""
    doc, access = document.feeds, {}
    if doc.electricity_maps is not None:
        one = doc.electricity_maps
        access["electricity_maps"] = Access(
            base_url=_base(one.base_url, intensity_electricity_maps.BASE_URL),
            key=reader.secret(one.api_key, ("feeds", "electricity_maps", "api_key")),
        )
    if doc.watttime is not None:
        two = doc.watttime
        access["watttime"] = Access(
            base_url=_base(two.base_url, intensity_watttime.BASE_URL),
            user=reader.secret(two.user, ("feeds", "watttime", "user")),
            password=reader.secret(two.password, ("feeds", "watttime", "password")),
        )
    if doc.uk is not None:
        access["uk"] = Access(base_url=_base(doc.uk.base_url, intensity_uk.BASE_URL))
    return Feeds(
        access=access,
        refresh_seconds=float(doc.refresh_minutes) * _SECONDS_PER_MINUTE,
        age_seconds_max=float(doc.max_age_minutes) * _SECONDS_PER_MINUTE,
    )


def _base(given: str | None, default: str) -> str:
    return (given or default).rstrip("/")
