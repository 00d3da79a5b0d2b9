"""A simulated provider that speaks every dialect: latency, token streaming, usage, prompt caching, and faults on order.

`script.py` says how to order an answer (a `sim` field of the body, or `[[sim {...}]]` in the prompt), `faults.py` what
can go wrong, `dialects/` how each dialect words it. Run it with `python -m gateway.simulator.provider --model
NAME:FIRST_TOKEN_S:TOKENS_PER_S ...`; it prints one base URL per model.
"""

import argparse
import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from . import access, directives, faults
from .dialects import SPEAKS, every
from .dialects.base import Body, Dialect, Lookup, Told
from .dialects.errors import Complaint, anthropic_error, openai_error
from .issued_ids import Mint
from .usage import Meter

_BODY_BYTES_MAX = 64 * 1024 * 1024
_INSTANCES = itertools.count(1)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Personality:
    """How one model answers. `first_token` in seconds, then `tokens_per_second`; zero = at once.

    `speaks`: the dialects that are not answered by 404. `strict`: refuse what the real API refuses. `key`: the only one
    that is let in. `account`: whose signatures and sealed reasoning are valid here.
    """

    model: str
    first_token: float = 0.0
    tokens_per_second: float = 0.0
    speaks: frozenset[str] = SPEAKS
    strict: bool = False
    key: str | None = None
    account: str = ""

    def __post_init__(self) -> None:
        unknown = self.speaks - SPEAKS
        if unknown:
            raise ValueError(f"no dialects: {', '.join(sorted(unknown))}; there are {', '.join(sorted(SPEAKS))}")


class SimulatedProvider:
    """One model behind one port. `received`, `headers`, `paths` tell of the requests it got, newest last (bounded)."""

    def __init__(self, personality: Personality) -> None:
        self._personality = personality
        self._runner: web.AppRunner | None = None
        self._mint = Mint(personality.account, f"{personality.model}/{next(_INSTANCES)}")
        self._faulty: Counter[bytes] = Counter()
        self.received: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.hung_up = 0
        self.keep = 1000

    async def start(self, port: int = 0) -> str:
        """Listen on loopback; gives the base URL."""
        app = web.Application(client_max_size=_BODY_BYTES_MAX)
        for path, dialect in every(Meter(), self._mint, self._personality.model):
            if dialect.name not in self._personality.speaks:
                continue
            if path:
                app.router.add_post(path, self._handler(dialect))
            for route, lookup in dialect.lookups().items():
                method, _, found = route.partition(" ")
                app.router.add_route(method, found, self._looker(dialect, lookup))
        app.router.add_route("*", "/{path:.*}", self._nowhere)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port, backlog=1024).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _handler(self, dialect: Dialect) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            raw = await request.read()
            if len(self.received) < self.keep:
                self.received.append(raw)
                self.headers.append(dict(request.headers))
                self.paths.append(request.path)
            try:
                return await self._answer(request, dialect, raw)
            except (asyncio.CancelledError, ConnectionError):
                self.hung_up += 1
                raise

        return handle

    def _looker(self, dialect: Dialect, lookup: Lookup) -> Handler:
        async def look(request: web.Request) -> web.StreamResponse:
            anthropic, number = access.is_anthropic(request.path, request.headers), self._mint.number()
            found = self._turned_away(request, anthropic) or lookup(request.match_info.get("id", ""), anthropic)
            if isinstance(found, Complaint):
                return self._worded(found, anthropic, number)
            if isinstance(found, bytes):
                return web.Response(body=found, content_type="application/octet-stream")
            return _json(found, dialect.headers(number))

        return look

    async def _nowhere(self, request: web.Request) -> web.StreamResponse:
        anthropic = access.is_anthropic(request.path, request.headers)
        return self._worded(
            access.unknown_path(request.method, request.path, anthropic), anthropic, self._mint.number()
        )

    async def _answer(self, request: web.Request, dialect: Dialect, raw: bytes) -> web.StreamResponse:
        number = self._mint.number()
        complaint = self._turned_away(request, dialect.anthropic)
        if complaint is not None:
            return self._refused(dialect, number, complaint)
        try:
            body, complaint = self._parsed(dialect, request, raw)
            asked = dialect.read(body)
            order = directives.order_for(body.get("sim"), asked)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            unread = Complaint(message=f"We could not read the body of your request: {error!r}")
            return self._refused(dialect, number, complaint or unread)
        fault = self._fault(order, raw)
        complaint = faults.refusal(fault) or self._unknown(dialect, body) or complaint or dialect.missing(body, asked)
        if complaint is not None:
            return self._refused(dialect, number, complaint)
        if fault == "hang":
            await faults.hang()
        await asyncio.sleep(self._personality.first_token)
        if fault == "not_json":
            return web.Response(text="<html>bad gateway</html>", content_type="text/html")
        reply = directives.answer({**order, "fault": fault}, asked)
        usage = dialect.usage(body, asked, reply, order)
        given = None if fault == "no_usage" else usage
        told = Told(number=number, created=int(time.time()), body=body, reply=reply, usage=given)
        if body.get("stream") and dialect.streams:
            return await self._stream(request, dialect, told, fault)
        if self._personality.tokens_per_second:
            await asyncio.sleep(usage.written / self._personality.tokens_per_second)
        return await self._whole(request, dialect, told, fault)

    def _fault(self, order: directives.Order, raw: bytes) -> str:
        """What is ordered to go wrong with this request."""
        fault, times = str(order.get("fault") or ""), order.get("times")
        if order.get("at") not in (None, self._personality.model):
            return ""
        if fault and times is not None:
            self._faulty[raw] += 1
            return fault if self._faulty[raw] <= times else ""
        return fault

    def _turned_away(self, request: web.Request, anthropic: bool) -> Complaint | None:
        return access.turned_away(request.headers, self._personality.key, self._personality.strict, anthropic)

    def _parsed(self, dialect: Dialect, request: web.Request, raw: bytes) -> tuple[Body, Complaint | None]:
        """The body, and what a strict provider has against it."""
        body = dialect.parse(raw, request.headers.get("Content-Type", ""))
        strict = self._personality.strict
        return body, next(dialect.complaints(body, request.headers), None) if strict else None

    def _unknown(self, dialect: Dialect, body: Body) -> Complaint | None:
        model = body.get("model")
        if not dialect.names_model or model == self._personality.model:
            return None
        message = f"The model '{model}' does not exist or you do not have access to it."
        return Complaint(status=404, message=message, slug="model_not_found")

    async def _whole(self, request: web.Request, dialect: Dialect, told: Told, fault: str) -> web.StreamResponse:
        document, headers = dialect.whole(told), dialect.headers(told.number)
        if isinstance(document, str):
            return web.Response(text=document, headers=headers)
        if fault == "garbage":
            return web.Response(body=b"\xff\xfe{{{", content_type="application/json", headers=headers)
        if fault not in faults.BREAKS:
            return _json(document, headers)
        response = web.StreamResponse(headers={"Content-Type": "application/json", **headers})
        await response.prepare(request)
        encoded = orjson.dumps(document)
        await response.write(encoded[: len(encoded) // 2])
        await faults.break_off(request, response, fault)
        return response

    async def _stream(self, request: web.Request, dialect: Dialect, told: Told, fault: str) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream", **dialect.headers(told.number)}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        rate = self._personality.tokens_per_second
        events = list(dialect.events(told))
        end = faults.breaks_at(fault, events)
        waiting: list[bytes] = [dialect.garbage()] if fault == "garbage" else []
        for event, token in events[:end]:
            waiting.append(event)
            if rate and token:
                await response.write(b"".join(waiting))
                waiting = []
                await asyncio.sleep(1 / rate)
        if fault == "error_event":
            waiting.append(dialect.broken(told, end or 0))
        await response.write(b"".join(waiting))
        if fault in faults.BREAKS:
            await faults.break_off(request, response, fault)
        else:
            await response.write_eof()
        return response

    def _refused(self, dialect: Dialect, number: int, complaint: Complaint) -> web.Response:
        headers = {**dialect.headers(number), **complaint.headers}
        return _json(dialect.error(complaint, number), headers, complaint.status)

    def _worded(self, complaint: Complaint, anthropic: bool, number: int) -> web.Response:
        """A refusal on a path that belongs to nobody, or to both."""
        id = self._mint.id("req_", number)
        document = anthropic_error(complaint, id) if anthropic else openai_error(complaint)
        return _json(document, {"request-id" if anthropic else "x-request-id": id}, complaint.status)


def _json(document: Body, headers: Mapping[str, str], status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(document), content_type="application/json", headers=headers)


async def _main(personalities: Sequence[Personality]) -> None:
    for personality in personalities:
        provider = SimulatedProvider(personality)
        provider.keep = 0
        print(personality.model, await provider.start(), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="simulated provider")
    parser.add_argument("--model", action="append", required=True, help="NAME:FIRST_TOKEN_SECONDS:TOKENS_PER_SECOND")
    parser.add_argument("--speaks", default=",".join(sorted(SPEAKS)), help="dialects, with commas between")
    parser.add_argument("--strict", action="store_true", help="refuse what the real API refuses")
    parser.add_argument("--key", help="the only key that is let in")
    given = parser.parse_args()
    common: dict[str, Any] = {"speaks": frozenset(given.speaks.split(",")), "strict": given.strict, "key": given.key}
    personalities = []
    for model in given.model:
        name, first, rate = model.split(":")
        personalities.append(Personality(model=name, first_token=float(first), tokens_per_second=float(rate), **common))
    asyncio.run(_main(personalities))


if __name__ == "__main__":
    main()
