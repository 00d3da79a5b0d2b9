"""Carbon receipt: energy and carbon of one session, with counterfactuals."""

from .base import Value
from .catalog import UNKNOWN_FOOTPRINT_METHOD
from .ledger_entry import LedgerEntry
from .units import MICROGRAMS_PER_GRAM, MILLIJOULES_PER_WH, ZERO_BOUNDS, Bounds


class CarbonReceipt(Value, frozen=True, kw_only=True):
    """Sums over the calls of one session.

    energy_millijoules: low-mid-high, mJ at the facility's meter
    carbon_micrograms: low-mid-high, ug CO2e, embodied included
    embodied_micrograms: the embodied part of the mid figure
    frontier_micrograms: mid figure of the same tokens on each route's most capable deployment
    undeferred_micrograms: mid figure without waiting for a greener hour
    unknown_calls: calls without a known footprint, which the sums leave out
    """

    energy_millijoules: Bounds = ZERO_BOUNDS
    carbon_micrograms: Bounds = ZERO_BOUNDS
    embodied_micrograms: int = 0
    frontier_micrograms: int = 0
    undeferred_micrograms: int = 0
    unknown_calls: int = 0

    def with_call(self, entry: LedgerEntry) -> "CarbonReceipt":
        """The receipt with one more call, or with the correction of one."""
        unknown = entry.footprint_method == UNKNOWN_FOOTPRINT_METHOD and entry.outcome != "corrected"
        return CarbonReceipt(
            energy_millijoules=self.energy_millijoules
            + Bounds(entry.energy_mj_low, entry.energy_mj_mid, entry.energy_mj_high),
            carbon_micrograms=self.carbon_micrograms
            + Bounds(entry.carbon_ug_low, entry.carbon_ug_mid, entry.carbon_ug_high),
            embodied_micrograms=self.embodied_micrograms + entry.embodied_ug,
            frontier_micrograms=self.frontier_micrograms + entry.reference_carbon_ug,
            undeferred_micrograms=self.undeferred_micrograms + entry.undeferred_carbon_ug,
            unknown_calls=self.unknown_calls + unknown,
        )

    def to_json(self, units: float | None = None) -> dict[str, object]:
        """In Wh and grams; with `units` of reported work also the carbon per unit (SCI)."""
        document: dict[str, object] = {
            "energy_wh": _scaled_bounds(self.energy_millijoules, MILLIJOULES_PER_WH),
            "g_co2e": _scaled_bounds(self.carbon_micrograms, MICROGRAMS_PER_GRAM),
            "embodied_g": self.embodied_micrograms / MICROGRAMS_PER_GRAM,
            "frontier_g": self.frontier_micrograms / MICROGRAMS_PER_GRAM,
            "undeferred_g": self.undeferred_micrograms / MICROGRAMS_PER_GRAM,
            "unknown_footprint_calls": self.unknown_calls,
        }
        if units:
            document["units"] = units
            document["g_co2e_per_unit"] = _scaled_bounds(self.carbon_micrograms, MICROGRAMS_PER_GRAM * units)
        return document


EMPTY_RECEIPT = CarbonReceipt()


def _scaled_bounds(bounds: Bounds, per: float) -> dict[str, float]:
    return {"low": bounds.low / per, "mid": bounds.mid / per, "high": bounds.high / per}
