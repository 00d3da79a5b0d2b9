"""What operators ask of energy and carbon, by kind of work."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferral:
    """Work of this kind may wait for a greener hour: for `seconds` at most from its arrival to its answer, and only where
    the forecast lies below the present by the share `gain_min`."""

    wait_seconds_max: float
    gain_share_min: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyPreferences:
    """What energy and carbon weigh for one kind of work.

    `carbon_nusd_per_kg` and `energy_nusd_per_kwh` are added to what a candidate is expected to cost; `signal` says by which
    intensity carbon is weighed, average or marginal. `max_millijoules` and `max_micrograms` forbid candidates expected to
    take more for one request; `zones` (shell patterns of grid zones and cloud regions) those that stand elsewhere.
    `prefer`: of candidates that will do, the one with the least "energy" or "carbon" is first, whatever it costs ("cost":
    the cheapest). `greenest_within_ms`: of a tier's candidates whose first byte takes no longer than the quickest's and
    so much, the one on the cleanest grid. Both act on gains of `gain_min` and more.
    """

    carbon_nusd_per_kg: int = 0
    energy_nusd_per_kwh: int = 0
    carbon_signal: str = "average"
    energy_millijoules_max: int | None = None
    carbon_micrograms_max: int | None = None
    allowed_zones: tuple[str, ...] = ()
    prefer: str = "cost"
    cleanest_within_ms: float | None = None
    gain_share_min: float = 0.2
    deferral: Deferral | None = None
    needs_expected_energy: bool = field(init=False)
    reorders: bool = field(init=False)

    def __post_init__(self) -> None:
        assert 0 <= self.gain_share_min < 1 and self.prefer in ("cost", "energy", "carbon")
        caps = self.energy_millijoules_max is not None or self.carbon_micrograms_max is not None
        moves = self.prefer != "cost" or self.cleanest_within_ms is not None
        # Expected energy is worked out only where something weighs it.
        object.__setattr__(
            self, "needs_expected_energy", bool(self.carbon_nusd_per_kg or self.energy_nusd_per_kwh or caps or moves)
        )
        object.__setattr__(self, "reorders", moves)


NO_ENERGY_PREFERENCES = EnergyPreferences()


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyPolicy:
    """What is asked by task type; the default for the rest."""

    default: EnergyPreferences = NO_ENERGY_PREFERENCES
    by_task_type: Mapping[str, EnergyPreferences] = field(default_factory=dict)

    def for_task_type(self, task_type: str) -> EnergyPreferences:
        """What applies to a request."""
        return self.by_task_type.get(task_type, self.default)


NO_ENERGY_POLICY = EnergyPolicy()
