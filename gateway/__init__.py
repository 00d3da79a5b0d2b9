"""Penstock: the cost-and-carbon aware gateway between AI agents and model providers.

Start reading at `exchange.py`, the life of one request; `app.py` shows how the house is wired.
"""

__version__ = "0.1.0"
