"""A proxy between a client and its server: forwards everything unchanged and records it."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import ClientError, ClientSession, ClientTimeout, web

# Hop-by-hop headers, and those set by the sending library.
_NOT_FORWARDED = {"host", "content-length", "transfer-encoding", "connection", "keep-alive"}
_SECRET_HEADERS = {"authorization", "x-api-key"}
_RECORDED_BYTES_MAX = 200_000
_MODEL_PATHS = ("/chat/completions", "/responses", "/messages", "/embeddings")


@dataclass(slots=True, kw_only=True)
class RecordedRequest:
    """One recorded request with its response.

    body: request body
    status: status of the response, 0 without one
    response_body: beginning of the response body
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    status: int = 0
    seconds: float = 0.0
    response_body: bytearray = field(default_factory=bytearray)
    response_headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def calls_model(self) -> bool:
        """Whether it uses a model: model lists and token counts do not."""
        return self.method == "POST" and self.path.partition("?")[0].endswith(_MODEL_PATHS)

    def document(self) -> dict[str, object]:
        """As JSON for the file of a run, without keys."""
        return {
            "request": f"{self.method} {self.path}",
            "headers": {name: value for name, value in self.headers.items() if name.lower() not in _SECRET_HEADERS},
            "body": _readable(self.body),
            "status": self.status,
            "seconds": round(self.seconds, 3),
            "response_body": _readable(bytes(self.response_body)),
        }


class Tap:
    """The proxy. Each run has a path prefix of its own, `/run/NAME/`, which identifies its target and its requests.

    `change` returns the body to send instead of a request's own.
    """

    def __init__(self, change: Callable[[RecordedRequest], bytes] | None = None) -> None:
        self._change = change
        self._targets: dict[str, str] = {}
        self.requests: dict[str, list[RecordedRequest]] = {}
        self._base = ""

    async def start(self) -> None:
        """Listen on loopback."""
        self._session = ClientSession(auto_decompress=False, timeout=ClientTimeout(total=None))
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/run/{name}/{rest:.*}", self._forward)
        self._runner = web.AppRunner(app, access_log=None, auto_decompress=False, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._base = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Close both sides."""
        await self._runner.cleanup()
        await self._session.close()

    def open(self, name: str, target: str) -> str:
        """Return the base URL of a new run whose requests are sent to `target`."""
        self._targets[name] = target
        self.requests[name] = []
        return f"{self._base}/run/{name}"

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        path = request.raw_path.removeprefix(f"/run/{name}")
        recorded = RecordedRequest(
            method=request.method, path=path, headers=dict(request.headers), body=await request.read()
        )
        self.requests[name].append(recorded)
        headers = [(key, value) for key, value in request.headers.items() if key.lower() not in _NOT_FORWARDED]
        if "Upgrade" in request.headers:
            headers.append(("Connection", "Upgrade"))
        body = self._change(recorded) if self._change else recorded.body
        started = time.monotonic()
        response = web.StreamResponse()
        try:
            async with self._session.request(
                request.method,
                self._targets[name] + path,
                headers=headers,
                data=body or None,
                allow_redirects=False,
                skip_auto_headers=("User-Agent", "Content-Type", "Accept", "Accept-Encoding"),
            ) as answer:
                recorded.status, recorded.response_headers = answer.status, dict(answer.headers)
                response.set_status(answer.status, answer.reason)
                for key, value in answer.headers.items():
                    if key.lower() not in _NOT_FORWARDED:
                        response.headers.add(key, value)
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    recorded.response_body += chunk[: _RECORDED_BYTES_MAX - len(recorded.response_body)]
                    await response.write(chunk)
        except ClientError as error:
            recorded.response_body += f" [connection to the server broken: {error!r}]".encode()
            if request.transport is not None:
                request.transport.abort()
        finally:
            recorded.seconds = time.monotonic() - started
        return response


def _readable(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except ValueError:
        return raw[:_RECORDED_BYTES_MAX].decode(errors="replace")
