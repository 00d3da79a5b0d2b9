"""The street doors: `server.py` and `admin.py` let callers and operators in, `upstream.py` goes out to providers.

aiohttp lives here and nowhere else; its exceptions never pass this room. `supervisor.py` starts every background task.
"""
