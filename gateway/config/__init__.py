"""YAML and environment in, one frozen World out, or a list of exact complaints (file:line:column).

Nobody below has heard of YAML or environment variables. Start with `load.py`; `schema.py` is the file's shape.
"""
