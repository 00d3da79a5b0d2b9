"""The values that flow through the gateway: frozen, checked once at birth.

Pure: imports nothing but the standard library and msgspec. Read `request.py` first, then `plan.py` and
`ledger_entry.py`.
"""
