"""The electricity grid: what a kilowatt-hour emits, now and as forecast."""

from dataclasses import dataclass

from .base import Value

# How an intensity was come by, best first; figures say it, so that a reader knows what they rest on.
GRID_METHODS = ("override", "live", "forecast", "cloud_region", "annual_region", "annual_country", "world")
# gCO2e per kWh beyond which no grid can be: lignite at 30 % efficiency is about 1,200 (IPCC AR5 WG3 annex III).
GRAMS_PER_KWH_MAX = 2000.0


class IntensitySample(Value, frozen=True):
    """The intensity from `start` (seconds since the epoch) until the next sample's start, in gCO2e per kWh."""

    start: float
    grams_per_kwh: float


class GridReading(Value, frozen=True, kw_only=True):
    """What a feed says of a zone: the intensity at `at`, and a forecast in ascending order of time (empty: none).
    `signal` is average or marginal."""

    zone: str
    grams_per_kwh: float
    read_at: float
    feed: str
    signal: str = "average"
    forecast: tuple[IntensitySample, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CarbonIntensity:
    """Carbon intensity of a deployment's grid in gCO2e per kWh: location-based average, which is what is reported.

    `method` is one of GRID_METHODS, `feed` names the live feed. `marginal_grams_per_kwh` (decisions only, where a rule
    asks for it) and `market_grams_per_kwh` (the provider's contracts, reported apart) are None where nobody says.
    `at`: when a live value was true, seconds since the epoch. `forecast` is that of the average.
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
        """The method, and which feed: `live:electricity_maps`."""
        return f"{self.method}:{self.feed}" if self.feed else self.method

    def sample_at(self, when: float) -> IntensitySample | None:
        """The forecast's slot in which a time lies; None where it does not reach."""
        if when >= self.forecast_ends_at:
            return None
        return next((sample for sample in reversed(self.forecast) if sample.start <= when), None)

    @property
    def forecast_ends_at(self) -> float:
        """Where the forecast ends: its last sample lasts as long as the one before. 0 without a forecast."""
        if len(self.forecast) < 2:
            return 0.0
        last, before = self.forecast[-1].start, self.forecast[-2].start
        return last + (last - before)
