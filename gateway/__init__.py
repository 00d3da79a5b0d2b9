"""Penstock: the cost- and carbon-aware gateway between AI agents and model providers.

Start reading at `pipeline/pipeline.py`, the life cycle of one request; `app.py` wires every object.
"""

__version__ = "0.1.0"
