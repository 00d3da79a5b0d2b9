"""Baseline of the benchmark: a bare reverse proxy in aiohttp without logic, measured in the same run as Penstock.

python loadtest/bare_proxy.py PORT UPSTREAM_BASE_URL
"""

import sys

import aiohttp
from aiohttp import web

_HOP_BY_HOP_HEADERS = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "content-encoding"}


async def _client(app: web.Application):
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=600), auto_decompress=False
    ) as client:
        app["client"] = client
        yield


async def _forward(request: web.Request) -> web.StreamResponse:
    body = await request.read()
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP_HEADERS}
    url = request.app["base"] + request.path_qs
    async with request.app["client"].request(request.method, url, data=body, headers=headers) as answer:
        response_headers = {
            name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP_HEADERS
        }
        if "event-stream" not in answer.headers.get("Content-Type", ""):
            return web.Response(status=answer.status, body=await answer.read(), headers=response_headers)
        response = web.StreamResponse(status=answer.status, headers=response_headers)
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response


def main() -> None:
    """Serve on 127.0.0.1 until killed."""
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app["base"] = sys.argv[2]
    app.cleanup_ctx.append(_client)
    app.router.add_route("*", "/{path:.*}", _forward)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
