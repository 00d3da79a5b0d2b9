"""The life of one request, one file per step. Start with `pipeline.py`."""
