"""Carbon intensity of the electricity grid, now and as forecast."""

from dataclasses import dataclass

from .base import Value

# How an intensity was obtained, best first; part of the label of figures.
GRID_METHODS = ("override", "live", "forecast", "cloud_region", "annual_region", "annual_country", "world")
# No grid emits more gCO2e per kWh: lignite at 30 % efficiency is about 1,200 (IPCC AR5 WG3 annex III).
GRAMS_PER_KWH_MAX = 2000.0


class IntensitySample(Value, frozen=True):
    """The intensity from `start` until the next sample's start.

    start: seconds since the epoch
    grams_per_kwh: gCO2e per kWh
    """

    start: float
    grams_per_kwh: float


class GridReading(Value, frozen=True, kw_only=True):
    """One reading of a zone from a feed.

    grams_per_kwh: gCO2e per kWh at `read_at`
    read_at: seconds since the epoch
    signal: average or marginal
    forecast: ascending by time; empty: none
    """

    zone: str
    grams_per_kwh: float
    read_at: float
    feed: str
    signal: str = "average"
    forecast: tuple[IntensitySample, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CarbonIntensity:
    """Carbon intensity of a deployment's grid: the location-based average.

    grams_per_kwh: gCO2e per kWh
    method: one of GRID_METHODS
    feed: name of the live feed; "": none
    read_at: when a live value was valid, seconds since the epoch
    marginal_grams_per_kwh: for decisions only, where a rule asks for it; None: unknown
    market_grams_per_kwh: by the provider's contracts, reported separately; None: unknown
    forecast: of the average
    """

    zone: str
    grams_per_kwh: float
    method: str
    feed: str = ""
    read_at: float | None = None
    marginal_grams_per_kwh: float | None = None
    market_grams_per_kwh: float | None = None
    forecast: tuple[IntensitySample, ...] = ()

    def __post_init__(self) -> None:
        assert self.method in GRID_METHODS, self.method

    @property
    def source(self) -> str:
        """The method with its feed: `live:electricity_maps`."""
        return f"{self.method}:{self.feed}" if self.feed else self.method

    def sample_at(self, at: float) -> IntensitySample | None:
        """The forecast sample that covers a time; None beyond the forecast."""
        if at >= self.forecast_ends_at:
            return None
        return next((sample for sample in reversed(self.forecast) if sample.start <= at), None)

    @property
    def forecast_ends_at(self) -> float:
        """When the forecast ends, seconds since the epoch; 0 without a forecast.

        The last sample lasts as long as the one before it.
        """
        if len(self.forecast) < 2:
            return 0.0
        last, before = self.forecast[-1].start, self.forecast[-2].start
        return last + (last - before)
