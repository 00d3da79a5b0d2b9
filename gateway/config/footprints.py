"""The inputs of a deployment's footprint: model size, hardware, power meter, grid and feeds."""

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

# Bits of a parameter where neither the file nor a card has them: FP8, common to hosted models (DeepSeek-V3 report, 2024).
_HOSTED_BITS = 8
# Error of a PUE that the operator states, each way.
_PUE_ERROR = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class FootprintInputs:
    """The inputs of one deployment's footprint.

    profile: model size and hardware; None if the size is unknown
    sensors: endpoints that report concurrency and power
    annual_intensity: carbon intensity without any feed
    feed_zones: name of the grid at each feed
    """

    profile: catalog.EnergyProfile | None
    sensors: catalog.Sensors
    annual_intensity: CarbonIntensity
    feed_zones: dict[str, str]


class FootprintTables:
    """The bundled tables of grids and model sizes; `version` is a hash of them and of all coefficients."""

    def __init__(self, document: schema.RoutingConfig) -> None:
        self._feeds, self._registry = document.feeds, document.energy.registry
        self._regions = cloud_regions.load()
        self._tables: intensity.IntensityTables = {
            "cloud_region": {name: region.grams_per_kwh for name, region in self._regions.items()},
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
        fingerprint = repr([numbers, tables, sorted(model_cards.load().items())])
        # Deployment by (meter, GPU) so far.
        self._claimed_gpus: dict[tuple[str, str], str] = {}
        self.version = hashlib.sha256(fingerprint.encode()).hexdigest()[:8]

    def inputs_of(self, reader: ConfigReader, doc: schema.DeploymentConfig, path: YamlPath) -> FootprintInputs:
        """The inputs of one deployment; mistakes become problems."""
        region = self._cloud_region(reader, doc, path)
        profile = self._energy_profile(reader, doc, path, region)
        sensors = _sensors(reader, doc, path)
        self._claim_gpus(reader, sensors, path)
        return FootprintInputs(
            profile=profile,
            sensors=sensors,
            annual_intensity=self._annual_intensity(reader, doc, path, region),
            feed_zones=self._feed_zones(reader, doc, path, region),
        )

    def _claim_gpus(self, reader: ConfigReader, sensors: catalog.Sensors, path: YamlPath) -> None:
        """Attribute each GPU to one deployment; "" means all GPUs of a meter."""
        if not sensors.has_meter:
            return
        meter, name = sensors.dcgm_url or "nvml", str(path[-1])
        for gpu in sensors.gpus or ("",):
            owners = [
                owner
                for (other_meter, other_gpu), owner in self._claimed_gpus.items()
                if other_meter == meter and (gpu in ("", other_gpu) or not other_gpu)
            ]
            if owners:
                reader.add_problem(
                    (*path, "energy", "power"),
                    f"GPUs are already metered for deployment '{owners[0]}'; list the GPUs of each under 'gpus'",
                )
                return
        self._claimed_gpus |= {(meter, gpu): name for gpu in sensors.gpus or ("",)}

    def _cloud_region(self, reader: ConfigReader, doc: schema.DeploymentConfig, path: YamlPath) -> CloudRegion | None:
        if doc.cloud_region is None:
            return None
        region = self._regions.get(doc.cloud_region)
        if region is None:
            reader.add_problem(
                (*path, "cloud_region"),
                f"unknown cloud region '{doc.cloud_region}' (expected provider/region, like gcp/europe-west1)"
                + did_you_mean(doc.cloud_region, self._regions),
            )
        return region

    def _energy_profile(
        self, reader: ConfigReader, doc: schema.DeploymentConfig, path: YamlPath, region: CloudRegion | None
    ) -> catalog.EnergyProfile | None:
        """Model size and hardware; None if the size is unknown."""
        doc_energy = doc.energy or schema.ModelEnergyConfig()
        sizes = self._param_counts(reader, doc, doc_energy, path)
        if sizes is None:
            return None
        active, total, source = sizes
        card = model_cards.find(doc.model)
        bits = doc_energy.bits_per_param or (card.bits if card is not None else _HOSTED_BITS)
        return catalog.EnergyProfile(
            active_params_b=active,
            total_params_b=total,
            bytes_per_param=float(bits) / 8,
            hardware=doc_energy.hardware or energy.DEFAULT_HARDWARE,
            hardware_factor=float(doc_energy.hardware_factor),
            gpus=doc_energy.gpus,
            engine=doc_energy.engine or "",
            concurrency=float(doc_energy.concurrency) if doc_energy.concurrency is not None else None,
            concurrency_source="declared" if doc_energy.concurrency is not None else "prior",
            pue=_pue(doc_energy, region),
            source=source,
        )

    def _param_counts(
        self, reader: ConfigReader, doc: schema.DeploymentConfig, doc_energy: schema.ModelEnergyConfig, path: YamlPath
    ) -> tuple[float, float, str] | None:
        """(active, total, source), in 1e9, from the file, the model's card, or EcoLogits' registry if enabled."""
        if doc_energy.active_params_b is not None:
            active = float(doc_energy.active_params_b)
            total = float(doc_energy.total_params_b) if doc_energy.total_params_b is not None else active
            if total < active:
                reader.add_problem(
                    (*path, "energy", "total_params_b"),
                    f"'total_params_b' is below 'active_params_b' ({active:g}); it must not be",
                )
            return active, max(active, total), "config"
        if doc_energy.total_params_b is not None:
            reader.add_problem(
                (*path, "energy", "total_params_b"), "'total_params_b' needs 'active_params_b'; add that"
            )
        card = model_cards.find(doc.model)
        if card is not None:
            return card.active_params_b, card.total_params_b, "card"
        estimate = ecologits_registry.find(doc.model) if self._registry == "ecologits" else None
        if estimate is None:
            return None
        if estimate.warning:
            reader.add_note(path, f"model size of '{doc.model}' is an estimate of EcoLogits: {estimate.warning}")
        return estimate.active_params_b, estimate.total_params_b, "ecologits"

    def _annual_intensity(
        self, reader: ConfigReader, doc: schema.DeploymentConfig, path: YamlPath, region: CloudRegion | None
    ) -> CarbonIntensity:
        """Carbon intensity without any feed, location-based and market-based."""
        override = float(doc.grams_co2e_per_kwh) if doc.grams_co2e_per_kwh is not None else None
        annual = intensity.annual_intensity(doc.zone, doc.cloud_region or "", override, self._tables)
        if doc.zone is not None and annual.method == "world":
            zones = [zone for name, table in self._tables.items() if name != "cloud_region" for zone in table]
            reader.add_problem(
                (*path, "zone"),
                f"unknown grid zone '{doc.zone}' (expected ISO alpha-3, like USA or FRA){did_you_mean(doc.zone, zones)}",
            )
        if doc.market_grams_co2e_per_kwh is not None:
            return replace(annual, market_grams_per_kwh=float(doc.market_grams_co2e_per_kwh))
        if region is not None and region.carbon_free_share is not None:
            return replace(annual, market_grams_per_kwh=region.grams_per_kwh * (1 - region.carbon_free_share))
        return annual

    def _feed_zones(
        self, reader: ConfigReader, doc: schema.DeploymentConfig, path: YamlPath, region: CloudRegion | None
    ) -> dict[str, str]:
        """The name of the deployment's grid at each configured feed."""
        zones = {name: zone for name, zone in doc.feeds.model_dump().items() if zone is not None}
        if doc.feeds.uk is not None and doc.feeds.uk not in intensity_uk.ZONES:
            reader.add_problem(
                (*path, "feeds", "uk"),
                f"'uk' must be GB or the number of a British region, 1 to 17, not '{doc.feeds.uk}'",
            )
        for name in zones:
            if getattr(self._feeds, name) is None:
                reader.add_problem((*path, "feeds", name), f"feed '{name}' is not configured; add it under 'feeds'")
        if region is not None and region.electricity_maps_zone and self._feeds.electricity_maps is not None:
            zones.setdefault("electricity_maps", region.electricity_maps_zone)
        return zones


def _pue(doc_energy: schema.ModelEnergyConfig, region: CloudRegion | None) -> tuple[float, float, float]:
    """(low, mid, high) from the file, else from the cloud region, else the prior."""
    pue = float(doc_energy.pue) if doc_energy.pue is not None else region.pue if region is not None else None
    if pue is None:
        return catalog.PUE_PRIOR
    return max(1.0, pue - _PUE_ERROR), pue, pue + _PUE_ERROR


def _sensors(reader: ConfigReader, doc: schema.DeploymentConfig, path: YamlPath) -> catalog.Sensors:
    """The endpoints that report concurrency and power."""
    doc_energy = doc.energy or schema.ModelEnergyConfig()
    if doc_energy.concurrency is not None and (doc_energy.metrics_url or doc_energy.infer_concurrency):
        reader.add_problem(
            (*path, "energy", "concurrency"),
            "'concurrency' excludes 'metrics_url' and 'infer_concurrency'; keep one of them",
        )
    power = doc_energy.power or schema.PowerMeterConfig()
    if doc_energy.power is not None and (power.dcgm_url is not None) == power.nvml:
        reader.add_problem((*path, "energy", "power"), "power must have exactly one of 'dcgm_url' and 'nvml: true'")
    return catalog.Sensors(
        metrics_url=doc_energy.metrics_url or "",
        dcgm_url=power.dcgm_url or "",
        nvml=power.nvml,
        gpus=tuple(power.gpus),
        idle_watts=float(power.idle_watts),
        latency=doc_energy.infer_concurrency,
    )
