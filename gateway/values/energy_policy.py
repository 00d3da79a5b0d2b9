"""Operators' preferences on energy and carbon, by task type."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferral:
    """Work of this kind may wait for a greener hour.

    wait_seconds_max: from arrival to answer
    gain_share_min: the forecast must be this share below the present intensity, in [0, 1)
    """

    wait_seconds_max: float
    gain_share_min: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyPreferences:
    """How energy and carbon weigh in the choice of a deployment for one kind of work.

    carbon_nusd_per_kg, energy_nusd_per_kwh: added to a candidate's expected cost
    carbon_signal: intensity by which carbon is weighed, "average" or "marginal"
    energy_millijoules_max, carbon_micrograms_max: candidates expected to take more per request are excluded
    allowed_zones: shell patterns of grid zones and cloud regions; candidates elsewhere are excluded; empty: any
    prefer: first of the sufficient candidates: the one with the least "energy" or "carbon" at any cost, or "cost"
    cleanest_within_ms: of a tier's candidates at most this much slower to the first byte than the quickest, the one on
        the cleanest grid is first; None: off
    gain_share_min: `prefer` and `cleanest_within_ms` act on gains of this share and more, in [0, 1)
    needs_expected_energy: some preference needs the expected energy of candidates
    reorders: `prefer` or `cleanest_within_ms` is set
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
        # Expected energy is computed only where something weighs it.
        object.__setattr__(
            self, "needs_expected_energy", bool(self.carbon_nusd_per_kg or self.energy_nusd_per_kwh or caps or moves)
        )
        object.__setattr__(self, "reorders", moves)


NO_ENERGY_PREFERENCES = EnergyPreferences()


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyPolicy:
    """Energy preferences by task type, with a default."""

    default: EnergyPreferences = NO_ENERGY_PREFERENCES
    by_task_type: Mapping[str, EnergyPreferences] = field(default_factory=dict)

    def for_task_type(self, task_type: str) -> EnergyPreferences:
        """The preferences for a request."""
        return self.by_task_type.get(task_type, self.default)


NO_ENERGY_POLICY = EnergyPolicy()
