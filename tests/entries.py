"""Ledger entries for tests: one to read, and those of a data folder."""

from pathlib import Path

from gateway.stores.ledger_sqlite import SqliteLedger
from gateway.values.ledger_entry import LedgerEntry

ENTRY = LedgerEntry(
    id="a.1", at_ms=1, request_id="a", final=1, key="k1", team="research", session="s", session_source="header",
    route="auto", stream=0, task_type="code", complexity=0.5, tier="small", provider="near", deployment="small",
    model="m", attempts=1, outcome="completed", status=200, code="", reason="r", usage_basis="exact", input_tokens=10,
    cached_input_tokens=1, cache_write_tokens=1, output_tokens=20, reasoning_tokens=1, priced=0, charge_nusd=100,
    hold_nusd=500, reference_nusd=400, energy_mj_low=1, energy_mj_mid=2, energy_mj_high=3, carbon_ug_low=1,
    carbon_ug_mid=2, carbon_ug_high=3, reference_energy_mj=4, footprint_method="test", loop_step="", first_byte_ms=5,
    duration_ms=9, config_hash="w",
)  # fmt: skip


def entries_in(folder: Path) -> list[LedgerEntry]:
    """Every entry of the ledger in a data folder, oldest first."""
    store = SqliteLedger(folder / "ledger.sqlite")
    try:
        return list(store.entries())
    finally:
        store.close()
