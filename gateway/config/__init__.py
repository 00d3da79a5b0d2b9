"""YAML and environment in, one frozen Snapshot out, or every problem as file:line:column.

No package below knows YAML or environment variables. Start with `load.py`; `schema.py` is the shape of the file.
"""
