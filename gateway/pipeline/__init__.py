"""The life of one request, files in the order of the request. Start with `pipeline.py`."""
