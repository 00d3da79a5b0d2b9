"""Stores: journal, ledger, labels, and budgets and sessions on Redis or Valkey.

`journal.py` survives a killed process without a sync, `ledger_sqlite.py` serves reports, `ledger.py` joins the two.
"""
