"""Stands between a client and its server: forwards everything as it comes, and writes down what went by."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import ClientError, ClientSession, ClientTimeout, web

# Hop by hop, or the business of the library that sends.
_OWN = {"host", "content-length", "transfer-encoding", "connection", "keep-alive"}
_SECRET = {"authorization", "x-api-key"}
_KEPT_BYTES = 200_000
_ASKS = ("/chat/completions", "/responses", "/messages", "/embeddings")


@dataclass(slots=True, kw_only=True)
class Seen:
    """One request that went by."""

    method: str
    path: str
    headers: Mapping[str, str]
    asked: bytes
    status: int = 0
    seconds: float = 0.0
    answered: bytearray = field(default_factory=bytearray)
    told: Mapping[str, str] = field(default_factory=dict)

    @property
    def asks_a_model(self) -> bool:
        """Whether it would cost money: model lists and token counts do not."""
        return self.method == "POST" and self.path.partition("?")[0].endswith(_ASKS)

    def document(self) -> dict[str, object]:
        """For the file that a failed run leaves behind."""
        return {
            "request": f"{self.method} {self.path}",
            "headers": {name: value for name, value in self.headers.items() if name.lower() not in _SECRET},
            "asked": _readable(self.asked),
            "status": self.status,
            "seconds": round(self.seconds, 3),
            "answered": _readable(bytes(self.answered)),
        }


class Tap:
    """Every run has a path of its own, `/run/NAME/...`, which says where its requests go and whose they are. `change` makes
    what is sent of what came."""

    def __init__(self, change: Callable[[Seen], bytes] | None = None) -> None:
        self._change = change
        self._targets: dict[str, str] = {}
        self.seen: dict[str, list[Seen]] = {}
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
        """The base URL of a new run whose requests go to `target`."""
        self._targets[name] = target
        self.seen[name] = []
        return f"{self._base}/run/{name}"

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        path = request.raw_path.removeprefix(f"/run/{name}")
        seen = Seen(method=request.method, path=path, headers=dict(request.headers), asked=await request.read())
        self.seen[name].append(seen)
        headers = [(key, value) for key, value in request.headers.items() if key.lower() not in _OWN]
        if "Upgrade" in request.headers:
            headers.append(("Connection", "Upgrade"))
        sent = self._change(seen) if self._change else seen.asked
        started = time.monotonic()
        response = web.StreamResponse()
        try:
            async with self._session.request(
                request.method,
                self._targets[name] + path,
                headers=headers,
                data=sent or None,
                allow_redirects=False,
                skip_auto_headers=("User-Agent", "Content-Type", "Accept", "Accept-Encoding"),
            ) as answer:
                seen.status, seen.told = answer.status, dict(answer.headers)
                response.set_status(answer.status, answer.reason)
                for key, value in answer.headers.items():
                    if key.lower() not in _OWN:
                        response.headers.add(key, value)
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    seen.answered += piece[: _KEPT_BYTES - len(seen.answered)]
                    await response.write(piece)
        except ClientError as error:
            seen.answered += f" [the server broke off: {error!r}]".encode()
            if request.transport is not None:
                request.transport.abort()
        finally:
            seen.seconds = time.monotonic() - started
        return response


def _readable(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except ValueError:
        return raw[:_KEPT_BYTES].decode(errors="replace")
