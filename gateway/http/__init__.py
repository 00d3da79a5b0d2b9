"""HTTP adapters: `server.py` and `admin.py` serve callers and operators, `upstream.py` calls providers.

Only this package imports aiohttp; its exceptions are translated here. `services/supervisor.py` starts every background
task.
"""
