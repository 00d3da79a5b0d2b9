"""Feeds: prices, model sizes, grid intensities, serving engines, energy meters.

Parses and validates data files that other packages ship (without importing them) and responses of HTTP feeds. No module
here opens a connection: `services/grid.py` and `services/accelerators.py` poll through `http/feed_client.py`.
"""
