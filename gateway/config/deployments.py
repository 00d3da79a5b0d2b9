"""The deployments of a routing file: providers, secrets, prices and footprints put together."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from ..carbon import footprint
from ..feeds import prices_litellm
from ..providers import PROVIDERS
from ..values import catalog
from . import schema
from .footprints import FootprintTables
from .reader import ConfigReader, did_you_mean, to_nusd
from .yaml_tree import YamlPath

# Where neither the file nor the price list says: common to current hosted models, and small enough to hold.
_CONTEXT_TOKENS_DEFAULT, _OUTPUT_TOKENS_DEFAULT = 128_000, 16_384


class _DeploymentInputs(NamedTuple):
    """What every deployment of a file is put together from."""

    price_list: Mapping[str, Mapping[str, Any]]
    footprint_tables: FootprintTables
    secrets: Mapping[str, str | None]
    options: Mapping[str, Mapping[str, Any]]
    now: float


def deployments_of(reader: ConfigReader, document: schema.RoutingConfig, now: float) -> dict[str, catalog.Deployment]:
    """Every deployment whose provider exists, at the prices in effect at `now`; what is wrong is complained about."""
    providers = document.providers
    shelf = _DeploymentInputs(
        price_list=prices_litellm.load(),
        footprint_tables=FootprintTables(document),
        secrets={
            name: reader.secret(provider.api_key, ("providers", name, "api_key")) if provider.api_key else None
            for name, provider in providers.items()
        },
        options={
            name: {
                **provider.options,
                **{
                    key: reader.secret(ref, ("providers", name, "secrets", key))
                    for key, ref in provider.secrets.items()
                },
            }
            for name, provider in providers.items()
        },
        now=now,
    )
    return {
        name: _deployment(reader, name, doc, providers[doc.provider], shelf)
        for name, doc in document.deployments.items()
        if doc.provider in providers
    }


def _deployment(
    reader: ConfigReader,
    name: str,
    doc: schema.DeploymentConfig,
    provider: schema.ProviderConfig,
    shelf: _DeploymentInputs,
) -> catalog.Deployment:
    """One straight table from what the file and the lists say."""
    path: YamlPath = ("deployments", name)
    known = _listed_model(reader, doc, path, shelf.price_list)
    output_tokens = doc.output_tokens or (known.output_tokens if known else None)
    price_sheet = _price_sheet(reader, doc.price, (*path, "price")) if doc.price else known.sheet if known else None
    price_sheet = _sheet_in_effect(reader, doc, path, price_sheet, shelf.now)
    if price_sheet is None:
        reader.note(
            path,
            f"deployment '{name}' has no known price: its calls count as unpriced, and no budget in usd admits it",
        )
    footing = shelf.footprint_tables.inputs_of(reader, doc, path)
    plain = catalog.Deployment(
        name=name,
        provider=doc.provider,
        dialect=provider.dialect,
        base_url=_base_url(reader, doc.provider, provider),
        secret=shelf.secrets[doc.provider],
        model=doc.model,
        tier=catalog.Tier[doc.tier],
        price_sheet=price_sheet,
        energy_models=None,
        intensity=footing.annual_intensity,
        annual_intensity=footing.annual_intensity,
        cloud_region=doc.cloud_region or "",
        zone_by_feed=footing.feed_zones,
        data_version=shelf.footprint_tables.version,
        sensors=footing.sensors,
        is_batch=doc.batch,
        context_tokens_max=doc.context_tokens or (known and known.context_tokens) or _CONTEXT_TOKENS_DEFAULT,
        output_tokens_max=output_tokens or _OUTPUT_TOKENS_DEFAULT,
        output_limit_is_known=output_tokens is not None,
        vision=_first_given(doc.vision, known.vision if known else None),
        tools=_first_given(doc.tools, known.tools if known else None),
        stream_usage=doc.stream_usage,
        timeouts=catalog.Timeouts(
            connect=float(doc.timeouts.connect),
            first_byte=float(doc.timeouts.first_byte),
            idle=float(doc.timeouts.idle),
            total=float(doc.timeouts.total),
        ),
        dialects=tuple(provider.speaks or PROVIDERS[provider.dialect].SUPPORTED_DIALECTS),
        unconfirmed_dialects=PROVIDERS[provider.dialect].OPTIONAL_DIALECTS if provider.speaks is None else frozenset(),
        takes_json_schema=_first_given(doc.json_schema, known.structured if known else None),
        takes_reasoning_effort=_first_given(doc.reasoning, known.reasons if known else None, default=False),
        adapts_thinking=_first_given(doc.adaptive_thinking, known.adaptive if known else None, default=False),
        unit_prices=known.unit_prices if known else {},
        litellm_options=shelf.options[doc.provider],
    )
    return footprint.with_footprint_model(plain, footing.profile, footing.annual_intensity)


def _base_url(reader: ConfigReader, name: str, provider: schema.ProviderConfig) -> str:
    given = reader.raw_section("providers").get(name)
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


def _listed_model(
    reader: ConfigReader, doc: schema.DeploymentConfig, path: YamlPath, listed: Mapping[str, Mapping[str, Any]]
) -> prices_litellm.ListedModel | None:
    known = prices_litellm.listed_model(listed, doc.price_list or doc.model)
    if known is None and doc.price_list is not None:
        reader.complain(
            (*path, "price_list"), f"the price list has no '{doc.price_list}'{did_you_mean(doc.price_list, listed)}"
        )
    return known


def price_changes_at(document: schema.RoutingConfig) -> list[float]:
    """When prices change, in seconds since the epoch, in ascending order."""
    days = {change.effective for doc in document.deployments.values() for change in doc.price_changes}
    return sorted(at for day in days if (at := _midnight_utc(day)) is not None)


def _sheet_in_effect(
    reader: ConfigReader,
    doc: schema.DeploymentConfig,
    path: YamlPath,
    price_sheet: catalog.PriceSheet | None,
    now: float,
) -> catalog.PriceSheet | None:
    """The sheet in effect at `now`: the last change whose day has come."""
    latest = float("-inf")
    for number, change in enumerate(doc.price_changes):
        place: YamlPath = (*path, "price_changes", number)
        at, changed = _midnight_utc(change.effective), _price_sheet(reader, change, place)
        if at is None:
            reader.complain((*place, "effective"), f"'{change.effective}' is not a day; write it like 2027-01-31")
        elif at <= latest:
            reader.complain((*place, "effective"), "price changes must be in ascending order of 'effective'")
        else:
            latest = at
            price_sheet = changed if at <= now else price_sheet
    return price_sheet


def _midnight_utc(day: str) -> float | None:
    try:
        return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _price_sheet(reader: ConfigReader, doc: schema.PriceConfig, path: YamlPath) -> catalog.PriceSheet:
    steps = [
        (step.above_input_tokens, _rates(reader, step, (*path, "steps", number)))
        for number, step in enumerate(doc.steps)
    ]
    limits = [above for above, _ in steps]
    if limits != sorted(set(limits)):
        reader.complain((*path, "steps"), "steps must be in ascending order of 'above_input_tokens'")
    return catalog.PriceSheet(base=_rates(reader, doc, path), source="config", rate_tiers=tuple(steps))


def _rates(reader: ConfigReader, doc: schema.RatesConfig, path: YamlPath) -> catalog.Rates:
    given, written = to_nusd(reader, doc.input, (*path, "input")), to_nusd(reader, doc.output, (*path, "output"))

    def other(name: str, value: Decimal | None, default: int) -> int:
        return default if value is None else to_nusd(reader, value, (*path, name))

    stored = other("cache_write", doc.cache_write, given)
    return catalog.Rates(
        input=given,
        output=written,
        cached_input=other("cached_input", doc.cached_input, given),
        cache_write=stored,
        reasoning=other("reasoning", doc.reasoning, written),
        cache_write_long=other("cache_write_long", doc.cache_write_long, stored),
    )


def _first_given(*values: bool | None, default: bool = True) -> bool:
    """The first that is given, else the default: what is not known is not forbidden."""
    return next((value for value in values if value is not None), default)
