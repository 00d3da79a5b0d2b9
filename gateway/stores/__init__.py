"""Memory: `journal.py` survives a kill without a sync, `ledger_sqlite.py` is what reports read, `ledger.py` joins them.

Doors: files and databases. Nothing here knows of HTTP.
"""
