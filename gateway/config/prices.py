"""The price sheets of a routing file: from its own keys, else from the bundled list."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from ..feeds import price_entry, prices_litellm
from ..values import catalog
from . import schema
from .reader import ConfigReader, to_nusd
from .yaml_tree import YamlPath

# Dialects whose providers call further models within a request, and which of the list: an advisor or a fallback
# (platform.claude.com, advisor tool, 2026-11), what draws pictures (platform.openai.com, image generation, 2026-11).
_FURTHER_MODELS_OF = {"anthropic": ("anthropic", ""), "openai": ("openai", "image_generation")}


def listed_sheet(listed: prices_litellm.ListedModel | None, region: str) -> catalog.PriceSheet | None:
    """The list's price sheet at an endpoint in this region (price_names.region_of)."""
    if listed is None or listed.price_sheet is None:
        return None
    permille = listed.region_permille.get(region)
    return listed.price_sheet if permille is None else price_entry.scaled(listed.price_sheet, permille)


def price_changes_at(document: schema.RoutingConfig) -> list[float]:
    """Times of all price changes, in seconds since the epoch, ascending."""
    days = {change.effective for doc in document.deployments.values() for change in doc.price_changes}
    return sorted(at for day in days if (at := _midnight_utc(day)) is not None)


def sheet_in_effect(
    reader: ConfigReader,
    doc: schema.DeploymentConfig,
    path: YamlPath,
    listed: catalog.PriceSheet | None,
    now: float,
) -> catalog.PriceSheet | None:
    """The price sheet of `now`: that of the last change which has taken effect, else of `price`, else of the list."""
    price_sheet = listed
    if doc.price is not None:
        price_sheet = _price_sheet(reader, doc.price, (*path, "price"), listed)
    latest = float("-inf")
    for index, change in enumerate(doc.price_changes):
        change_path: YamlPath = (*path, "price_changes", index)
        at, changed = _midnight_utc(change.effective), _price_sheet(reader, change, change_path, listed)
        if at is None:
            reader.add_problem(
                (*change_path, "effective"), f"'effective' must be a day like 2027-01-31, not '{change.effective}'"
            )
        elif at <= latest:
            reader.add_problem((*change_path, "effective"), "'price_changes' must be in ascending order of 'effective'")
        else:
            latest = at
            price_sheet = changed if at <= now else price_sheet
    return price_sheet


def unit_prices_of(
    reader: ConfigReader, doc: schema.DeploymentConfig, path: YamlPath, listed: prices_litellm.ListedModel | None
) -> dict[str, int]:
    """NUSD by billed unit: of the file, else of the list."""
    own: dict[str, int] = {
        unit: to_nusd(reader, usd, (*path, "unit_prices", unit)) for unit, usd in doc.unit_prices.items()
    }
    from_list = listed.unit_prices if listed is not None else {}
    # A price of the file replaces all sizes and qualities of the list.
    return {unit: price for unit, price in from_list.items() if unit.partition(":")[0] not in own} | own


def with_further_models(deployments: Mapping[str, catalog.Deployment]) -> dict[str, catalog.Deployment]:
    """The deployments, each with the prices of models that its provider may call within a request.

    Those of other deployments at the same provider come before those of the list.
    """
    result = {}
    for name, deployment in deployments.items():
        sheet, listed_as = deployment.price_sheet, _FURTHER_MODELS_OF.get(deployment.dialect)
        if sheet is not None and listed_as is not None:
            siblings = {
                other.model: replace(other.price_sheet, output_tokens_max=other.output_tokens_max)
                for other in deployments.values()
                if other.provider == deployment.provider and other.price_sheet is not None
            }
            sheet = replace(sheet, further_models={**prices_litellm.sheets_of(*listed_as), **siblings})
            deployment = replace(deployment, price_sheet=sheet)
        result[name] = deployment
    return result


def _price_sheet(
    reader: ConfigReader, doc: schema.PriceConfig, path: YamlPath, listed: catalog.PriceSheet | None
) -> catalog.PriceSheet:
    """The sheet of the file; what does not depend on the price of tokens is of the list where the file lacks it."""
    sheet = _tokens_sheet(reader, doc, path)
    tiers: dict[str, catalog.PriceSheet] = {
        tier: _tokens_sheet(reader, tier_doc, (*path, "tiers", tier)) for tier, tier_doc in doc.tiers.items()
    }
    tools = {unit: to_nusd(reader, usd, (*path, "tools", unit)) for unit, usd in doc.tools.items()}
    request = None if doc.request is None else to_nusd(reader, doc.request, (*path, "request"))
    regions = {region: round(factor * catalog.GEO_SCALE) for region, factor in doc.regions.items()}
    sheet = replace(sheet, service_tiers=tiers, off_peak=_off_peak(reader, doc, path))
    if listed is None:
        return replace(sheet, tool_nusd=tools, geo_permille=regions, call_nusd=request or 0)
    return replace(
        sheet,
        tool_nusd={**listed.tool_nusd, **tools},
        tools_once=listed.tools_once,
        tools_always=listed.tools_always,
        geo_permille={**listed.geo_permille, **regions},
        call_nusd=listed.call_nusd if request is None else request,
    )


def _tokens_sheet(reader: ConfigReader, doc: schema.ServiceTierPriceConfig, path: YamlPath) -> catalog.PriceSheet:
    steps = [
        (step.above_input_tokens, _rates(reader, step, (*path, "steps", index))) for index, step in enumerate(doc.steps)
    ]
    limits = [above for above, _ in steps]
    if limits != sorted(set(limits)):
        reader.add_problem((*path, "steps"), "'steps' must be in ascending order of 'above_input_tokens'")
    return catalog.PriceSheet(base=_rates(reader, doc, path), source="config", rate_tiers=tuple(steps))


def _off_peak(reader: ConfigReader, doc: schema.PriceConfig, path: YamlPath) -> catalog.OffPeak | None:
    if doc.off_peak is None:
        return None
    rates = _rates(reader, doc.off_peak, (*path, "off_peak"))
    minutes = price_entry.minutes_of_week(
        {"windows": [{"hours_utc": list(doc.off_peak.hours_utc), "weekdays": list(doc.off_peak.weekdays) or None}]}
    )
    return catalog.OffPeak(sheet=catalog.PriceSheet(base=rates, source="config"), minutes=minutes)


def _rates(reader: ConfigReader, doc: schema.RatesConfig, path: YamlPath) -> catalog.Rates:
    input_rate = to_nusd(reader, doc.input, (*path, "input"))
    output_rate = to_nusd(reader, doc.output, (*path, "output"))

    def rate(name: str, value: Decimal | None, default: int) -> int:
        return default if value is None else to_nusd(reader, value, (*path, name))

    cache_write_rate = rate("cache_write", doc.cache_write, input_rate)
    rates = catalog.Rates(
        input=input_rate,
        output=output_rate,
        cached_input=rate("cached_input", doc.cached_input, input_rate),
        cache_write=cache_write_rate,
        reasoning=rate("reasoning", doc.reasoning, output_rate),
        cache_write_long=rate("cache_write_long", doc.cache_write_long, cache_write_rate),
    )
    if doc.audio is None and doc.image is None:
        return rates
    has_cache = doc.cached_input is not None
    audio = _modality(reader, doc.audio, (*path, "audio"), rates, has_cache=has_cache)
    image = _modality(reader, doc.image, (*path, "image"), rates, has_cache=has_cache)
    return replace(
        rates,
        modalities=catalog.ModalityRates(
            input_audio=audio[0],
            cached_audio=audio[1],
            output_audio=audio[2],
            input_image=image[0],
            cached_image=image[1],
            output_image=image[2],
        ),
    )


def _modality(
    reader: ConfigReader,
    doc: schema.ModalityRatesConfig | None,
    path: YamlPath,
    rates: catalog.Rates,
    *,
    has_cache: bool,
) -> tuple[int, int, int]:
    """Prices of input, cached input and output of one kind."""
    if doc is None:
        return rates.input, rates.cached_input, rates.output
    own = {
        name: None if value is None else to_nusd(reader, value, (*path, name))
        for name, value in (("input", doc.input), ("cached_input", doc.cached_input), ("output", doc.output))
    }
    input_rate = rates.input if own["input"] is None else own["input"]
    cached_default = rates.cached_input if has_cache else input_rate
    return (
        input_rate,
        cached_default if own["cached_input"] is None else own["cached_input"],
        rates.output if own["output"] is None else own["output"],
    )


def _midnight_utc(day: str) -> float | None:
    try:
        return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
