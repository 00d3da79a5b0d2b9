"""The deployments of a routing file: providers, secrets, prices, energy and grid put together."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from ..carbon import energy, footprint, intensity
from ..feeds import cloud_regions, ecologits_registry, intensity_tables, intensity_uk, model_cards, prices_litellm
from ..providers import PROVIDERS
from ..values import catalog
from ..values.grid import Intensity
from . import schema
from .reader import Reader, meant, nusd
from .yaml_tree import Path

# Where neither the file nor the price list says: common to current hosted models, and small enough to hold.
_CONTEXT_TOKENS, _OUTPUT_TOKENS = 128_000, 16_384
# Bits of a weight where neither the file nor a card says: FP8, common to hosted models (DeepSeek-V3 report, 2024).
_HOSTED_BITS = 8
# PUE bounds around the operator's own value: half a point of measurement error each way.
_PUE_ERROR = 0.02


def deployments(reader: Reader, document: schema.Document, now: float) -> dict[str, catalog.Deployment]:
    """Every deployment whose provider exists, at the prices in effect at `now`; what is wrong is complained about."""
    listed = prices_litellm.load()
    grid = _Grid(intensity_tables.load(), cloud_regions.load())
    secrets = {
        name: reader.secret(provider.api_key, ("providers", name, "api_key")) if provider.api_key else None
        for name, provider in document.providers.items()
    }
    options = {
        name: {
            **provider.options,
            **{key: reader.secret(ref, ("providers", name, "secrets", key)) for key, ref in provider.secrets.items()},
        }
        for name, provider in document.providers.items()
    }
    built = {}
    for name, doc in document.deployments.items():
        path: Path = ("deployments", name)
        provider = document.providers.get(doc.provider)
        if provider is None:
            continue
        known = _known(reader, doc, path, listed)
        output_tokens = doc.output_tokens or (known.output_tokens if known else None)
        sheet = _sheet(reader, doc.price, (*path, "price")) if doc.price else known.sheet if known else None
        sheet = _changed(reader, doc, path, sheet, now)
        if sheet is None:
            reader.note(
                path,
                f"deployment '{name}' has no known price: its calls count as unpriced, and no budget in usd admits it",
            )
        region = _region(reader, doc, path, grid)
        profile = _profile(reader, doc, path, region, document.energy.registry)
        if profile is None:
            reader.note(
                path,
                f"deployment '{name}' has no energy profile: its footprint counts as unknown, and no budget in wh admits it",
            )
        annual = _annual(reader, doc, path, grid)
        built[name] = footprint.known(
            catalog.Deployment(
                name=name,
                provider=doc.provider,
                dialect=provider.dialect,
                base_url=_base_url(reader, doc.provider, provider),
                secret=secrets[doc.provider],
                model=doc.model,
                tier=catalog.Tier[doc.tier],
                sheet=sheet,
                energy=None,
                intensity=annual,
                annual=annual,
                cloud_region=doc.cloud_region or "",
                feeds=_feeds(reader, doc, path, document.feeds, region),
                data_version=grid.version,
                sensors=_sensors(reader, doc, path),
                batch=doc.batch,
                context_tokens=doc.context_tokens or (known and known.context_tokens) or _CONTEXT_TOKENS,
                output_tokens=output_tokens or _OUTPUT_TOKENS,
                output_tokens_known=output_tokens is not None,
                vision=_first(doc.vision, known.vision if known else None),
                tools=_first(doc.tools, known.tools if known else None),
                stream_usage=doc.stream_usage,
                timeouts=catalog.Timeouts(
                    connect=float(doc.timeouts.connect),
                    first_byte=float(doc.timeouts.first_byte),
                    idle=float(doc.timeouts.idle),
                    total=float(doc.timeouts.total),
                ),
                speaks=tuple(provider.speaks or PROVIDERS[provider.dialect].SPEAKS),
                learnt=PROVIDERS[provider.dialect].LEARNT if provider.speaks is None else frozenset(),
                structured=_first(doc.json_schema, known.structured if known else None),
                reasons=_first(doc.reasoning, known.reasons if known else None, default=False),
                adaptive=_first(doc.adaptive_thinking, known.adaptive if known else None, default=False),
                unit_prices=known.unit_prices if known else {},
                options=options[doc.provider],
            ),
            profile,
            annual,
        )
    return built


def _base_url(reader: Reader, name: str, provider: schema.Provider) -> str:
    given = reader.section("providers").get(name)
    if (
        provider.base_url is None
        and provider.dialect != "litellm"
        and not (isinstance(given, dict) and "base_url" in given)
    ):
        reader.complain(("providers", name), "'base_url' is missing; add it here")
    if provider.speaks is not None and provider.dialect != "openai":
        reader.complain(("providers", name, "speaks"), "'speaks' is for dialect 'openai' only; leave it out")
    if (provider.options or provider.secrets) and provider.dialect != "litellm":
        reader.complain(("providers", name), "'options' and 'secrets' are for dialect 'litellm' only; leave them out")
    return (provider.base_url or "").rstrip("/")


def _known(
    reader: Reader, doc: schema.Deployment, path: Path, listed: Mapping[str, Mapping[str, Any]]
) -> prices_litellm.ListedModel | None:
    known = prices_litellm.listed_model(listed, doc.price_list or doc.model)
    if known is None and doc.price_list is not None:
        reader.complain(
            (*path, "price_list"), f"the price list has no '{doc.price_list}'{meant(doc.price_list, listed)}"
        )
    return known


def changes(document: schema.Document) -> list[float]:
    """When prices change, in seconds since the epoch, in ascending order."""
    days = {change.effective for doc in document.deployments.values() for change in doc.price_changes}
    return sorted(at for day in days if (at := _midnight(day)) is not None)


def _changed(
    reader: Reader, doc: schema.Deployment, path: Path, sheet: catalog.PriceSheet | None, now: float
) -> catalog.PriceSheet | None:
    """The sheet in effect at `now`: the last change whose day has come."""
    latest = float("-inf")
    for number, change in enumerate(doc.price_changes):
        place: Path = (*path, "price_changes", number)
        at, changed = _midnight(change.effective), _sheet(reader, change, place)
        if at is None:
            reader.complain((*place, "effective"), f"'{change.effective}' is not a day; write it like 2027-01-31")
        elif at <= latest:
            reader.complain((*place, "effective"), "price changes must be in ascending order of 'effective'")
        else:
            latest = at
            sheet = changed if at <= now else sheet
    return sheet


def _midnight(day: str) -> float | None:
    try:
        return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _sheet(reader: Reader, doc: schema.Price, path: Path) -> catalog.PriceSheet:
    steps = [
        (step.above_input_tokens, _rates(reader, step, (*path, "steps", number)))
        for number, step in enumerate(doc.steps)
    ]
    limits = [above for above, _ in steps]
    if limits != sorted(set(limits)):
        reader.complain((*path, "steps"), "steps must be in ascending order of 'above_input_tokens'")
    return catalog.PriceSheet(base=_rates(reader, doc, path), source="config", steps=tuple(steps))


def _rates(reader: Reader, doc: schema.Rates, path: Path) -> catalog.Rates:
    given, written = nusd(reader, doc.input, (*path, "input")), nusd(reader, doc.output, (*path, "output"))

    def other(name: str, value: Decimal | None, default: int) -> int:
        return default if value is None else nusd(reader, value, (*path, name))

    stored = other("cache_write", doc.cache_write, given)
    return catalog.Rates(
        input=given,
        output=written,
        cached_input=other("cached_input", doc.cached_input, given),
        cache_write=stored,
        reasoning=other("reasoning", doc.reasoning, written),
        cache_write_long=other("cache_write_long", doc.cache_write_long, stored),
    )


def _profile(
    reader: Reader, doc: schema.Deployment, path: Path, region: cloud_regions.CloudRegion | None, registry: str
) -> catalog.EnergyProfile | None:
    """What is known of weights and machine: the file, else the model's card, else (if it is asked for) EcoLogits'
    registry. None where nobody knows the weights."""
    given = doc.energy or schema.Energy()
    card = model_cards.find(doc.model)
    if given.active_params_b is not None:
        active, source = float(given.active_params_b), "config"
        total = float(given.total_params_b) if given.total_params_b is not None else active
        if total < active:
            reader.complain((*path, "energy", "total_params_b"), "'total_params_b' is below 'active_params_b'")
            total = active
    elif card is not None:
        active, total, source = card.active_params_b, card.total_params_b, "card"
    elif registry == "ecologits" and (guess := ecologits_registry.find(doc.model)) is not None:
        active, total, source = guess.active_params_b, guess.total_params_b, "ecologits"
        if guess.warning:
            reader.note(path, f"the weights of '{doc.model}' are a guess of EcoLogits' registry: {guess.warning}")
    else:
        return None
    if given.total_params_b is not None and source != "config":
        reader.complain((*path, "energy", "total_params_b"), "'total_params_b' needs 'active_params_b' beside it")
    bits = given.bits_per_param or (card.bits if card is not None else _HOSTED_BITS)
    return catalog.EnergyProfile(
        active_params_b=active,
        total_params_b=total,
        bytes_per_param=float(bits) / 8,
        hardware=given.hardware or energy.UNDECLARED,
        hardware_factor=float(given.hardware_factor),
        gpus=given.gpus,
        engine=given.engine or "",
        concurrency=float(given.concurrency) if given.concurrency is not None else None,
        concurrency_source="declared" if given.concurrency is not None else "prior",
        pue=_pue(given, region),
        source=source,
    )


def _pue(given: schema.Energy, region: cloud_regions.CloudRegion | None) -> tuple[float, float, float]:
    """The operator's, the cloud region's, or the prior."""
    pue = float(given.pue) if given.pue is not None else region.pue if region is not None else None
    if pue is None:
        return catalog.PUE_PRIOR
    return max(1.0, pue - _PUE_ERROR), pue, pue + _PUE_ERROR


def _sensors(reader: Reader, doc: schema.Deployment, path: Path) -> catalog.Sensors:
    given = doc.energy
    if given is None:
        return catalog.NO_SENSORS
    if given.concurrency is not None and (given.metrics_url or given.infer_concurrency):
        reader.complain(
            (*path, "energy", "concurrency"),
            "'concurrency' is declared; leave 'metrics_url' and 'infer_concurrency' out",
        )
    power = given.power or schema.Power()
    if given.power is not None and (power.dcgm_url is None) != power.nvml:
        reader.complain((*path, "energy", "power"), "give exactly one of 'dcgm_url' or 'nvml: true'")
    return catalog.Sensors(
        metrics_url=given.metrics_url or "",
        dcgm_url=power.dcgm_url or "",
        nvml=power.nvml,
        gpus=tuple(power.gpus),
        idle_watts=float(power.idle_watts),
        latency=given.infer_concurrency,
    )


class _Grid:
    """What the tables know, and a short hash of that and of the formula's numbers."""

    def __init__(self, tables: intensity.Tables, regions: Mapping[str, cloud_regions.CloudRegion]) -> None:
        self.regions = regions
        self.tables = {"cloud_region": {name: one.grams_per_kwh for name, one in regions.items()}, **tables}
        told = repr([energy.COEFFICIENTS, [(name, sorted(table.items())) for name, table in self.tables.items()]])
        self.version = hashlib.sha256(told.encode()).hexdigest()[:8]


def _region(reader: Reader, doc: schema.Deployment, path: Path, grid: _Grid) -> cloud_regions.CloudRegion | None:
    if doc.cloud_region is None:
        return None
    found = grid.regions.get(doc.cloud_region)
    if found is None:
        reader.complain(
            (*path, "cloud_region"),
            f"unknown cloud region '{doc.cloud_region}'{meant(doc.cloud_region, grid.regions)}; write it like gcp/europe-west1",
        )
    return found


def _annual(reader: Reader, doc: schema.Deployment, path: Path, grid: _Grid) -> Intensity:
    """The deployment's intensity without any feed, and the market-based one beside it."""
    override = float(doc.grams_co2e_per_kwh) if doc.grams_co2e_per_kwh is not None else None
    found = intensity.annual(doc.zone, doc.cloud_region or "", override, grid.tables)
    if doc.zone is not None and found.method == "world":
        zones = [zone for name, table in grid.tables.items() if name != "cloud_region" for zone in table]
        reader.complain(
            (*path, "zone"), f"unknown grid zone '{doc.zone}'{meant(doc.zone, zones)}; use ISO alpha-3 like USA or FRA"
        )
    region = grid.regions.get(doc.cloud_region or "")
    if doc.market_grams_co2e_per_kwh is not None:
        return replace(found, market_grams_per_kwh=float(doc.market_grams_co2e_per_kwh))
    if region is not None and region.carbon_free is not None:
        return replace(found, market_grams_per_kwh=region.grams_per_kwh * (1 - region.carbon_free))
    return found


def _feeds(
    reader: Reader, doc: schema.Deployment, path: Path, feeds: schema.Feeds, region: cloud_regions.CloudRegion | None
) -> dict[str, str]:
    """What its grid is called at each feed that the file has."""
    given = {name: zone for name, zone in doc.feeds.model_dump().items() if zone is not None}
    if doc.feeds.uk is not None and doc.feeds.uk not in intensity_uk.ZONES:
        reader.complain((*path, "feeds", "uk"), f"'{doc.feeds.uk}' is neither GB nor the number of a region, 1 to 17")
    for name in given:
        if getattr(feeds, name) is None:
            reader.complain((*path, "feeds", name), f"there is no feed '{name}'; add it under 'feeds'")
    if region is not None and region.electricity_maps and feeds.electricity_maps is not None:
        given.setdefault("electricity_maps", region.electricity_maps)
    return given


def _first(*values: bool | None, default: bool = True) -> bool:
    """The first that is given, else the default: what is not known is not forbidden."""
    return next((value for value in values if value is not None), default)
