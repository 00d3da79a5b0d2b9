"""The deployments of a routing file, with secrets, prices and footprints resolved."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..carbon import footprint
from ..feeds import price_names, prices_litellm
from ..feeds.package_data import is_installed
from ..providers import PROVIDERS
from ..values import catalog
from ..values.extras import install_hint
from . import schema
from .footprints import FootprintTables
from .prices import listed_sheet, sheet_in_effect, unit_prices_of, with_further_models
from .reader import ConfigReader, did_you_mean
from .yaml_tree import YamlPath

# For models whose limits are in neither the file nor the price list: typical of hosted models of 2026.
_CONTEXT_TOKENS_DEFAULT, _OUTPUT_TOKENS_DEFAULT = 128_000, 16_384


class _DeploymentInputs(NamedTuple):
    """What all deployments of a file are built from.

    price_list: entries of the bundled price list by model name
    footprint_tables: carbon intensities and model sizes
    secrets: API key by provider; None where there is none
    options: litellm parameters by provider, secrets included
    now: time of the price sheets in effect, in seconds since the epoch
    """

    price_list: prices_litellm.PriceList
    footprint_tables: FootprintTables
    secrets: Mapping[str, str | None]
    options: Mapping[str, Mapping[str, Any]]
    now: float


def deployments_of(reader: ConfigReader, document: schema.RoutingConfig, now: float) -> dict[str, catalog.Deployment]:
    """Every deployment whose provider exists, at the prices of `now`; mistakes become problems."""
    providers = document.providers
    inputs = _DeploymentInputs(
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
    deployments = {
        name: _deployment(reader, name, doc, providers[doc.provider], inputs)
        for name, doc in document.deployments.items()
        if doc.provider in providers
    }
    return with_further_models(deployments)


def _deployment(
    reader: ConfigReader,
    name: str,
    doc: schema.DeploymentConfig,
    provider: schema.ProviderConfig,
    inputs: _DeploymentInputs,
) -> catalog.Deployment:
    """One deployment; keys of the file override the price list."""
    path: YamlPath = ("deployments", name)
    listed = _listed_model(reader, doc, path, inputs.price_list, provider.base_url or "")
    output_tokens = doc.output_tokens or (listed.output_tokens if listed else None)
    region = price_names.region_of(provider.base_url or "", str(provider.options.get("vertex_location", "")))
    price_sheet = sheet_in_effect(reader, doc, path, listed_sheet(listed, region), inputs.now)
    unit_prices = unit_prices_of(reader, doc, path, listed)
    footprint_inputs = inputs.footprint_tables.inputs_of(reader, doc, path)
    deployment = catalog.Deployment(
        name=name,
        provider=doc.provider,
        dialect=provider.dialect,
        base_url=_base_url(reader, doc.provider, provider),
        secret=inputs.secrets[doc.provider],
        model=doc.model,
        tier=catalog.Tier[doc.tier],
        price_sheet=price_sheet,
        energy_models=None,
        intensity=footprint_inputs.annual_intensity,
        annual_intensity=footprint_inputs.annual_intensity,
        cloud_region=doc.cloud_region or "",
        zone_by_feed=footprint_inputs.feed_zones,
        data_version=inputs.footprint_tables.version,
        sensors=footprint_inputs.sensors,
        is_batch=doc.batch,
        context_tokens_max=doc.context_tokens or (listed and listed.context_tokens) or _CONTEXT_TOKENS_DEFAULT,
        output_tokens_max=output_tokens or _OUTPUT_TOKENS_DEFAULT,
        output_limit_is_known=output_tokens is not None,
        vision=_first_given(doc.vision, listed.supports_vision if listed else None),
        tools=_first_given(doc.tools, listed.supports_tools if listed else None),
        stream_usage=doc.stream_usage,
        timeouts=catalog.Timeouts(
            connect=float(doc.timeouts.connect),
            first_byte=float(doc.timeouts.first_byte),
            idle=float(doc.timeouts.idle),
            total=float(doc.timeouts.total),
        ),
        dialects=tuple(provider.speaks or PROVIDERS[provider.dialect].SUPPORTED_DIALECTS),
        unconfirmed_dialects=PROVIDERS[provider.dialect].OPTIONAL_DIALECTS if provider.speaks is None else frozenset(),
        takes_json_schema=_first_given(doc.json_schema, listed.supports_response_schema if listed else None),
        takes_reasoning_effort=_first_given(
            doc.reasoning, listed.supports_reasoning if listed else None, default=False
        ),
        adapts_thinking=_first_given(
            doc.adaptive_thinking, listed.supports_adaptive_thinking if listed else None, default=False
        ),
        unit_prices=unit_prices,
        litellm_options=inputs.options[doc.provider],
    )
    return footprint.with_footprint_model(deployment, footprint_inputs.profile, footprint_inputs.annual_intensity)


def _base_url(reader: ConfigReader, name: str, provider: schema.ProviderConfig) -> str:
    # A base URL that was invalid is a problem already, and missing here.
    section = reader.raw_section("providers").get(name)
    if (
        provider.base_url is None
        and provider.dialect != "litellm"
        and not (isinstance(section, dict) and "base_url" in section)
    ):
        reader.add_problem(("providers", name), "required key 'base_url' is missing; add it here")
    if provider.speaks is not None and provider.dialect != "openai":
        reader.add_problem(("providers", name, "speaks"), "'speaks' applies to dialect 'openai' only; remove it")
    if provider.dialect == "litellm" and not is_installed("litellm"):
        reader.add_problem(("providers", name, "dialect"), f"dialect 'litellm': {install_hint('litellm')}")
    if (provider.options or provider.secrets) and provider.dialect != "litellm":
        reader.add_problem(("providers", name), "'options' and 'secrets' apply to dialect 'litellm' only; remove them")
    return (provider.base_url or "").rstrip("/")


def _listed_model(
    reader: ConfigReader,
    doc: schema.DeploymentConfig,
    path: YamlPath,
    price_list: prices_litellm.PriceList,
    base_url: str,
) -> prices_litellm.ListedModel | None:
    name = doc.price_list or prices_litellm.model_name(price_list, doc.model, base_url)
    listed = prices_litellm.listed_model(price_list, name) if name else None
    if listed is None and doc.price_list is not None:
        reader.add_problem(
            (*path, "price_list"),
            f"unknown model '{doc.price_list}' in the price list{did_you_mean(doc.price_list, price_list)}",
        )
    return listed


def _first_given(*values: bool | None, default: bool = True) -> bool:
    """The first value that is given, else the default; unknown capabilities are assumed to exist."""
    return next((value for value in values if value is not None), default)
