"""Holds and ledger entries for tests of the stores."""

from typing import Any

import msgspec

from gateway.values.ledger_entry import Hold, LedgerEntry, expired_entry

NOW = 1_790_000_000.0  # 2026-09-21 14:13:20 UTC
NOW_MS = round(NOW * 1000)


def hold(name: str, **change: Any) -> Hold:
    base = Hold(
        id=f"{name}.1", at_ms=NOW_MS, request_id=name, key="k1", team="research", session="s", session_source="h",
        route="auto", stream=0, task_type="code", complexity=0.5, tier="small", provider="p", deployment="d", model="m",
        attempts=1, reason="r", input_tokens=10, output_tokens=20, priced=1, hold_nusd=500, hold_millijoules=70,
        hold_micrograms=9, config_hash="w", root="s",
    )  # fmt: skip
    return msgspec.structs.replace(base, **change)


def entry(name: str, **change: Any) -> LedgerEntry:
    """The entry of a completed call of 100 nUSD, 30 tokens, 70 mJ and 9 ug."""
    return msgspec.structs.replace(expired_entry(hold(name)), **{"outcome": "completed", "charge_nusd": 100, **change})
