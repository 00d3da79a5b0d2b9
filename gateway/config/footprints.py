"""What a deployment's footprint rests on: its weights, the machine behind it, meters, its grid and who tells of that."""

import hashlib
from dataclasses import dataclass, replace

from ..carbon import concurrency, energy, footprint, intensity
from ..feeds import cloud_regions, ecologits_registry, intensity_tables, intensity_uk, model_cards
from ..feeds.cloud_regions import CloudRegion
from ..values import catalog
from ..values.grid import CarbonIntensity
from . import schema
from .reader import ConfigReader, did_you_mean
from .yaml_tree import YamlPath

# Bits of a weight where neither the file nor a card says: FP8, common to hosted models (DeepSeek-V3 report, 2024).
_HOSTED_BITS = 8
# PUE bounds around the operator's own value: half a point of measurement error each way.
_PUE_ERROR = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class FootprintInputs:
    """What one deployment's footprint rests on; `profile` None where nobody knows the weights."""

    profile: catalog.EnergyProfile | None
    sensors: catalog.Sensors
    annual_intensity: CarbonIntensity
    feed_zones: dict[str, str]


class FootprintTables:
    """What the tables and the file know; `version` is a short hash of tables and of the formula's numbers."""

    def __init__(self, document: schema.RoutingConfig) -> None:
        self._feeds, self._registry = document.feeds, document.energy.registry
        self._regions = cloud_regions.load()
        self._tables: intensity.IntensityTables = {
            "cloud_region": {name: one.grams_per_kwh for name, one in self._regions.items()},
            **intensity_tables.load(),
        }
        tables = [(name, sorted(table.items())) for name, table in self._tables.items()]
        numbers = [
            energy.COEFFICIENTS,
            footprint.COEFFICIENTS,
            concurrency.COEFFICIENTS,
            catalog.PUE_PRIOR,
            _HOSTED_BITS,
            _PUE_ERROR,
        ]
        told = repr([numbers, tables, sorted(model_cards.load().items())])
        # Meters that deployments have named so far, and whose each is.
        self._claimed_gpus: dict[tuple[str, str], str] = {}
        self.version = hashlib.sha256(told.encode()).hexdigest()[:8]

    def inputs_of(self, reader: ConfigReader, doc: schema.DeploymentConfig, path: YamlPath) -> FootprintInputs:
        """One deployment's; what is wrong is complained about."""
        region = self._cloud_region(reader, doc, path)
        profile = self._energy_profile(reader, doc, path, region)
        if profile is None:
            reader.note(
                path,
                f"deployment '{path[-1]}' has no energy profile: its footprint counts as unknown, and no budget in wh admits it",
            )
        sensors = _sensors(reader, doc, path)
        self._claim_gpus(reader, sensors, path)
        return FootprintInputs(
            profile=profile,
            sensors=sensors,
            annual_intensity=self._annual_intensity(reader, doc, path, region),
            feed_zones=self._feed_zones(reader, doc, path, region),
        )

    def _claim_gpus(self, reader: ConfigReader, sensors: catalog.Sensors, path: YamlPath) -> None:
        """A GPU's joules belong to one deployment; "" stands for all of a meter."""
        if not sensors.has_meter:
            return
        meter, name = sensors.dcgm_url or "nvml", str(path[-1])
        for gpu in sensors.gpus or ("",):
            taken = [
                whose
                for (other, one), whose in self._claimed_gpus.items()
                if other == meter and (gpu in ("", one) or not one)
            ]
            if taken:
                reader.complain(
                    (*path, "energy", "power"), f"these GPUs are metered for '{taken[0]}' already; name which are whose"
                )
                return
        self._claimed_gpus |= {(meter, gpu): name for gpu in sensors.gpus or ("",)}

    def _cloud_region(self, reader: ConfigReader, doc: schema.DeploymentConfig, path: YamlPath) -> CloudRegion | None:
        if doc.cloud_region is None:
            return None
        found = self._regions.get(doc.cloud_region)
        if found is None:
            reader.complain(
                (*path, "cloud_region"),
                f"unknown cloud region '{doc.cloud_region}'{did_you_mean(doc.cloud_region, self._regions)}; write it like gcp/europe-west1",
            )
        return found

    def _energy_profile(
        self, reader: ConfigReader, doc: schema.DeploymentConfig, path: YamlPath, region: CloudRegion | None
    ) -> catalog.EnergyProfile | None:
        """What is known of weights and machine."""
        given = doc.energy or schema.ModelEnergyConfig()
        sizes = self._param_counts(reader, doc, given, path)
        if sizes is None:
            return None
        active, total, source = sizes
        card = model_cards.find(doc.model)
        bits = given.bits_per_param or (card.bits if card is not None else _HOSTED_BITS)
        return catalog.EnergyProfile(
            active_params_b=active,
            total_params_b=total,
            bytes_per_param=float(bits) / 8,
            hardware=given.hardware or energy.DEFAULT_HARDWARE,
            hardware_factor=float(given.hardware_factor),
            gpus=given.gpus,
            engine=given.engine or "",
            concurrency=float(given.concurrency) if given.concurrency is not None else None,
            concurrency_source="declared" if given.concurrency is not None else "prior",
            pue=_pue(given, region),
            source=source,
        )

    def _param_counts(
        self, reader: ConfigReader, doc: schema.DeploymentConfig, given: schema.ModelEnergyConfig, path: YamlPath
    ) -> tuple[float, float, str] | None:
        """(active, total, source), in 1e9: the file, else the model's card, else (if it is asked for) EcoLogits' registry."""
        if given.active_params_b is not None:
            active = float(given.active_params_b)
            total = float(given.total_params_b) if given.total_params_b is not None else active
            if total < active:
                reader.complain((*path, "energy", "total_params_b"), "'total_params_b' is below 'active_params_b'")
            return active, max(active, total), "config"
        if given.total_params_b is not None:
            reader.complain((*path, "energy", "total_params_b"), "'total_params_b' needs 'active_params_b' beside it")
        card = model_cards.find(doc.model)
        if card is not None:
            return card.active_params_b, card.total_params_b, "card"
        guess = ecologits_registry.find(doc.model) if self._registry == "ecologits" else None
        if guess is None:
            return None
        if guess.warning:
            reader.note(path, f"the weights of '{doc.model}' are a guess of EcoLogits' registry: {guess.warning}")
        return guess.active_params_b, guess.total_params_b, "ecologits"

    def _annual_intensity(
        self, reader: ConfigReader, doc: schema.DeploymentConfig, path: YamlPath, region: CloudRegion | None
    ) -> CarbonIntensity:
        """The intensity without any feed, and the market-based one beside it."""
        override = float(doc.grams_co2e_per_kwh) if doc.grams_co2e_per_kwh is not None else None
        found = intensity.annual_intensity(doc.zone, doc.cloud_region or "", override, self._tables)
        if doc.zone is not None and found.method == "world":
            zones = [zone for name, table in self._tables.items() if name != "cloud_region" for zone in table]
            reader.complain(
                (*path, "zone"),
                f"unknown grid zone '{doc.zone}'{did_you_mean(doc.zone, zones)}; use ISO alpha-3 like USA or FRA",
            )
        if doc.market_grams_co2e_per_kwh is not None:
            return replace(found, market_grams_per_kwh=float(doc.market_grams_co2e_per_kwh))
        if region is not None and region.carbon_free_share is not None:
            return replace(found, market_grams_per_kwh=region.grams_per_kwh * (1 - region.carbon_free_share))
        return found

    def _feed_zones(
        self, reader: ConfigReader, doc: schema.DeploymentConfig, path: YamlPath, region: CloudRegion | None
    ) -> dict[str, str]:
        """What the deployment's grid is called at each feed that the file has."""
        given = {name: zone for name, zone in doc.feeds.model_dump().items() if zone is not None}
        if doc.feeds.uk is not None and doc.feeds.uk not in intensity_uk.ZONES:
            reader.complain(
                (*path, "feeds", "uk"), f"'{doc.feeds.uk}' is neither GB nor the number of a region, 1 to 17"
            )
        for name in given:
            if getattr(self._feeds, name) is None:
                reader.complain((*path, "feeds", name), f"there is no feed '{name}'; add it under 'feeds'")
        if region is not None and region.electricity_maps_zone and self._feeds.electricity_maps is not None:
            given.setdefault("electricity_maps", region.electricity_maps_zone)
        return given


def _pue(given: schema.ModelEnergyConfig, region: CloudRegion | None) -> tuple[float, float, float]:
    """The operator's, the cloud region's, or the prior."""
    pue = float(given.pue) if given.pue is not None else region.pue if region is not None else None
    if pue is None:
        return catalog.PUE_PRIOR
    return max(1.0, pue - _PUE_ERROR), pue, pue + _PUE_ERROR


def _sensors(reader: ConfigReader, doc: schema.DeploymentConfig, path: YamlPath) -> catalog.Sensors:
    """What can be asked about the machine."""
    given = doc.energy or schema.ModelEnergyConfig()
    if given.concurrency is not None and (given.metrics_url or given.infer_concurrency):
        reader.complain(
            (*path, "energy", "concurrency"),
            "'concurrency' is declared; leave 'metrics_url' and 'infer_concurrency' out",
        )
    power = given.power or schema.PowerMeterConfig()
    if given.power is not None and (power.dcgm_url is not None) == power.nvml:
        reader.complain((*path, "energy", "power"), "give exactly one of 'dcgm_url' or 'nvml: true'")
    return catalog.Sensors(
        metrics_url=given.metrics_url or "",
        dcgm_url=power.dcgm_url or "",
        nvml=power.nvml,
        gpus=tuple(power.gpus),
        idle_watts=float(power.idle_watts),
        latency=given.infer_concurrency,
    )
