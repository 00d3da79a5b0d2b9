"""Outgoing news: `prometheus.py` the counters, `table.py` sums for finance as CSV or JSON. They read ledger entries and
change nothing; a slow or failing one is not noticed by any request.
"""
