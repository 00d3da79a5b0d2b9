"""A carbon receipt: what one session's own calls took, with bounds, and what the same tokens would have on the frontier."""

from .base import Value
from .catalog import UNKNOWN_METHOD
from .ledger_entry import LedgerEntry
from .units import MICROGRAMS_PER_GRAM, MILLIJOULES_PER_WH, NOTHING, Bounds


class Receipt(Value, frozen=True, kw_only=True):
    """Energy in mJ and carbon in ug CO2e, low-mid-high; the embodied part of the mid figure, what it would have been on each
    route's most capable deployment (`frontier`, equal tokens assumed) and without waiting for greener hours (`undeferred`).
    `unknown` counts calls whose footprint nobody knows: the receipt does not hold them."""

    energy: Bounds = NOTHING
    carbon: Bounds = NOTHING
    embodied: int = 0
    frontier: int = 0
    undeferred: int = 0
    unknown: int = 0

    def plus(self, entry: LedgerEntry) -> "Receipt":
        """With one more call."""
        unknown = entry.footprint_method == UNKNOWN_METHOD
        return Receipt(
            energy=self.energy + Bounds(entry.energy_mj_low, entry.energy_mj_mid, entry.energy_mj_high),
            carbon=self.carbon + Bounds(entry.carbon_ug_low, entry.carbon_ug_mid, entry.carbon_ug_high),
            embodied=self.embodied + entry.embodied_ug,
            frontier=self.frontier + entry.reference_carbon_ug,
            undeferred=self.undeferred + entry.undeferred_carbon_ug,
            unknown=self.unknown + unknown,
        )

    def told(self, units: float | None = None) -> dict[str, object]:
        """In Wh and grams; `units`: the units of work that were reported, by which the carbon is divided, too (SCI)."""
        found: dict[str, object] = {
            "energy_wh": _bounds(self.energy, MILLIJOULES_PER_WH),
            "g_co2e": _bounds(self.carbon, MICROGRAMS_PER_GRAM),
            "embodied_g": self.embodied / MICROGRAMS_PER_GRAM,
            "on_frontier_g": self.frontier / MICROGRAMS_PER_GRAM,
            "without_waiting_g": self.undeferred / MICROGRAMS_PER_GRAM,
            "calls_of_unknown_footprint": self.unknown,
        }
        if units:
            found["units"] = units
            found["g_co2e_per_unit"] = _bounds(self.carbon, MICROGRAMS_PER_GRAM * units)
        return found


NO_RECEIPT = Receipt()


def _bounds(bounds: Bounds, per: float) -> dict[str, float]:
    return {"low": bounds.low / per, "mid": bounds.mid / per, "high": bounds.high / per}
