"""HTTP servers for callers and operators, HTTP clients for providers and feeds.

Only this package imports aiohttp; its exceptions are translated here. `services/supervisor.py` starts every background
task.
"""
