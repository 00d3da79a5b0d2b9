"""Exporters: Prometheus metrics, grouped sums as CSV or JSON, and budget notices.

They read ledger entries and change nothing; a slow or failing exporter does not affect requests.
"""
