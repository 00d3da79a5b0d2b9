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
from .footprints import Footprints
from .reader import Reader, meant, nusd
from .yaml_tree import Path

# Where neither the file nor the price list says: common to current hosted models, and small enough to hold.
_CONTEXT_TOKENS, _OUTPUT_TOKENS = 128_000, 16_384


class _Shelf(NamedTuple):
    """What every deployment of a file is put together from."""

    listed: Mapping[str, Mapping[str, Any]]
    footprints: Footprints
    secrets: Mapping[str, str | None]
    options: Mapping[str, Mapping[str, Any]]
    now: float


def deployments(reader: Reader, document: schema.Document, now: float) -> dict[str, catalog.Deployment]:
    """Every deployment whose provider exists, at the prices in effect at `now`; what is wrong is complained about."""
    providers = document.providers
    shelf = _Shelf(
        listed=prices_litellm.load(),
        footprints=Footprints(document),
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
    reader: Reader, name: str, doc: schema.Deployment, provider: schema.Provider, shelf: _Shelf
) -> catalog.Deployment:
    """One straight table from what the file and the lists say."""
    path: Path = ("deployments", name)
    known = _known(reader, doc, path, shelf.listed)
    output_tokens = doc.output_tokens or (known.output_tokens if known else None)
    sheet = _sheet(reader, doc.price, (*path, "price")) if doc.price else known.sheet if known else None
    sheet = _changed(reader, doc, path, sheet, shelf.now)
    if sheet is None:
        reader.note(
            path,
            f"deployment '{name}' has no known price: its calls count as unpriced, and no budget in usd admits it",
        )
    footing = shelf.footprints.of(reader, doc, path)
    plain = catalog.Deployment(
        name=name,
        provider=doc.provider,
        dialect=provider.dialect,
        base_url=_base_url(reader, doc.provider, provider),
        secret=shelf.secrets[doc.provider],
        model=doc.model,
        tier=catalog.Tier[doc.tier],
        sheet=sheet,
        energy=None,
        intensity=footing.annual,
        annual=footing.annual,
        cloud_region=doc.cloud_region or "",
        feeds=footing.feeds,
        data_version=shelf.footprints.version,
        sensors=footing.sensors,
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
        options=shelf.options[doc.provider],
    )
    return footprint.known(plain, footing.profile, footing.annual)


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


def _first(*values: bool | None, default: bool = True) -> bool:
    """The first that is given, else the default: what is not known is not forbidden."""
    return next((value for value in values if value is not None), default)
