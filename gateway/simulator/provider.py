"""A simulated provider for all dialects: latency, streams, usage, cache, faults.

`directives.py` documents how to control an answer (a `sim` field of the body, or `[[sim {...}]]` in the prompt),
`faults.py` what can go wrong, `dialects/` how each dialect encodes it. Run it with `python -m
gateway.simulator.provider --model NAME:FIRST_TOKEN_S:TOKENS_PER_S ...`; it prints one base URL per model.
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
from .dialects import DIALECT_NAMES, dialect_routes
from .dialects.base import AnswerContent, Body, ResourceHandler, SimulatedDialect
from .dialects.errors import ApiError, anthropic_error_body, openai_error_body
from .issued_ids import IdIssuer
from .priced_extras import extras_of
from .usage import PromptCache

_BODY_BYTES_MAX = 64 * 1024 * 1024
_INSTANCE_NUMBERS = itertools.count(1)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedModel:
    """How one model answers.

    first_token_seconds: latency of the first token, 0: none
    tokens_per_second: pace of the others, 0: at once
    dialects: all others are answered by 404
    strict: refuse what the real API refuses
    api_key: the only accepted one; None: any
    account: whose signatures and sealed reasoning are valid here
    """

    model: str
    first_token_seconds: float = 0.0
    tokens_per_second: float = 0.0
    dialects: frozenset[str] = DIALECT_NAMES
    strict: bool = False
    api_key: str | None = None
    account: str = ""

    def __post_init__(self) -> None:
        unknown = self.dialects - DIALECT_NAMES
        if unknown:
            raise ValueError(
                f"unknown dialects: {', '.join(sorted(unknown))}; known: {', '.join(sorted(DIALECT_NAMES))}"
            )


class SimulatedProvider:
    """One model on one port.

    `request_bodies`, `request_headers` and `request_paths` are those of the requests received, oldest first, bounded;
    `resource_requests` are the others, as "METHOD /path".
    """

    def __init__(self, model: SimulatedModel) -> None:
        self._model = model
        self._runner: web.AppRunner | None = None
        self._ids = IdIssuer(model.account, f"{model.model}/{next(_INSTANCE_NUMBERS)}")
        self._fault_counts: Counter[bytes] = Counter()
        self.request_bodies: list[bytes] = []
        self.request_headers: list[dict[str, str]] = []
        self.request_paths: list[str] = []
        self.resource_requests: list[str] = []
        self.disconnects = 0
        self.max_recorded_requests = 1000

    async def start(self, port: int = 0) -> str:
        """Listen on loopback; returns the base URL."""
        app = web.Application(client_max_size=_BODY_BYTES_MAX)
        for path, dialect in dialect_routes(PromptCache(), self._ids, self._model.model):
            if dialect.name not in self._model.dialects:
                continue
            if path:
                app.router.add_post(path, self._handler(dialect))
            for route, lookup in dialect.resource_routes().items():
                method, _, resource_path = route.partition(" ")
                app.router.add_route(method, resource_path, self._resource_handler(dialect, lookup))
        app.router.add_route("*", "/{path:.*}", self._unknown_path)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port, backlog=1024).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _handler(self, dialect: SimulatedDialect) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            raw = await request.read()
            if len(self.request_bodies) < self.max_recorded_requests:
                self.request_bodies.append(raw)
                self.request_headers.append(dict(request.headers))
                self.request_paths.append(request.path)
            try:
                return await self._answer(request, dialect, raw)
            except (asyncio.CancelledError, ConnectionError):
                self.disconnects += 1
                raise

        return handle

    def _resource_handler(self, dialect: SimulatedDialect, lookup: ResourceHandler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            anthropic, number = access.expects_anthropic(request.path, request.headers), self._ids.next_number()
            if len(self.resource_requests) < self.max_recorded_requests:
                self.resource_requests.append(f"{request.method} {request.path}")
            id, refusal = request.match_info.get("id", ""), self._access_error(request, anthropic)
            if refusal is None and request.method == "GET" and request.query.get("stream") == "true":
                stream = dialect.resource_stream(id, int(request.query.get("starting_after", "-1")))
                if isinstance(stream, bytes):
                    return web.Response(body=stream, content_type="text/event-stream")
                refusal = stream
            result = refusal or lookup(id, anthropic)
            if isinstance(result, ApiError):
                return self._unrouted_error_response(result, anthropic, number)
            if isinstance(result, bytes):
                return web.Response(body=result, content_type="application/octet-stream")
            return _json_response(result, dialect.response_headers(number))

        return handle

    async def _unknown_path(self, request: web.Request) -> web.StreamResponse:
        anthropic = access.expects_anthropic(request.path, request.headers)
        return self._unrouted_error_response(
            access.unknown_path_error(request.method, request.path, anthropic), anthropic, self._ids.next_number()
        )

    async def _answer(self, request: web.Request, dialect: SimulatedDialect, raw: bytes) -> web.StreamResponse:
        number = self._ids.next_number()
        refusal = self._access_error(request, dialect.is_anthropic)
        if refusal is not None:
            return self._error_response(dialect, number, refusal)
        try:
            body, refusal = self._parse_and_validate(dialect, request, raw)
            parsed = dialect.parse_request(body)
            directive = directives.directive_for(body.get("sim"), parsed)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            unreadable = ApiError(message=f"We could not read the body of your request: {error!r}")
            return self._error_response(dialect, number, refusal or unreadable)
        fault = self._fault_for(directive, raw)
        refusal = (
            faults.error_for(fault)
            or self._unknown_model_error(dialect, body)
            or refusal
            or dialect.missing_reference_error(body, parsed)
        )
        if refusal is not None:
            return self._error_response(dialect, number, refusal)
        if fault == "hang":
            await faults.hang()
        await asyncio.sleep(self._model.first_token_seconds)
        if fault == "not_json":
            return web.Response(text="<html>bad gateway</html>", content_type="text/html")
        reply = directives.reply_to({**directive, "fault": fault}, parsed)
        extras, usage = extras_of(body, directive, dialect.usage(body, parsed, reply, directive))
        reported = None if fault == "no_usage" else usage
        answer = AnswerContent(
            sequence_number=number, created_at=int(time.time()), body=body, reply=reply, usage=reported, extras=extras
        )
        if body.get("stream") and dialect.supports_streaming:
            return await self._send_stream(request, dialect, answer, fault)
        if self._model.tokens_per_second:
            await asyncio.sleep(usage.output_tokens / self._model.tokens_per_second)
        return await self._send_document(request, dialect, answer, fault)

    def _fault_for(self, directive: directives.Directive, raw: bytes) -> str:
        """The fault requested for this request; "": none."""
        fault, times = str(directive.get("fault") or ""), directive.get("times")
        if directive.get("at") not in (None, self._model.model):
            return ""
        if fault and times is not None:
            self._fault_counts[raw] += 1
            return fault if self._fault_counts[raw] <= times else ""
        return fault

    def _access_error(self, request: web.Request, anthropic: bool) -> ApiError | None:
        return access.access_error(request.headers, self._model.api_key, self._model.strict, anthropic)

    def _parse_and_validate(
        self, dialect: SimulatedDialect, request: web.Request, raw: bytes
    ) -> tuple[Body, ApiError | None]:
        """The body, and the first validation error of a strict provider."""
        body = dialect.parse_body(raw, request.headers.get("Content-Type", ""))
        strict = self._model.strict
        return body, next(dialect.validation_errors(body, request.headers), None) if strict else None

    def _unknown_model_error(self, dialect: SimulatedDialect, body: Body) -> ApiError | None:
        model = body.get("model")
        if not dialect.requires_model or model == self._model.model:
            return None
        message = f"The model '{model}' does not exist or you do not have access to it."
        return ApiError(status=404, message=message, openai_code="model_not_found")

    async def _send_document(
        self, request: web.Request, dialect: SimulatedDialect, answer: AnswerContent, fault: str
    ) -> web.StreamResponse:
        document, headers = dialect.document(answer), dialect.response_headers(answer.sequence_number)
        if isinstance(document, str):
            return web.Response(text=document, headers=headers)
        if fault == "garbage":
            return web.Response(body=b"\xff\xfe{{{", content_type="application/json", headers=headers)
        if fault not in faults.INTERRUPTING_FAULTS:
            return _json_response(document, headers)
        response = web.StreamResponse(headers={"Content-Type": "application/json", **headers})
        await response.prepare(request)
        encoded = orjson.dumps(document)
        await response.write(encoded[: len(encoded) // 2])
        await faults.interrupt(request, response, fault)
        return response

    async def _send_stream(
        self, request: web.Request, dialect: SimulatedDialect, answer: AnswerContent, fault: str
    ) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream", **dialect.response_headers(answer.sequence_number)}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        rate = self._model.tokens_per_second
        events = list(dialect.events(answer))
        end = faults.interruption_index(fault, events)
        pending: list[bytes] = [dialect.malformed_event()] if fault == "garbage" else []
        for event, token in events[:end]:
            pending.append(event)
            if rate and token:
                await response.write(b"".join(pending))
                pending = []
                await asyncio.sleep(1 / rate)
        if fault == "error_event":
            pending.append(dialect.error_event(answer, end or 0))
        await response.write(b"".join(pending))
        if fault in faults.INTERRUPTING_FAULTS:
            await faults.interrupt(request, response, fault)
        else:
            await response.write_eof()
        return response

    def _error_response(self, dialect: SimulatedDialect, number: int, error: ApiError) -> web.Response:
        headers = {**dialect.response_headers(number), **error.headers}
        return _json_response(dialect.error_body(error, number), headers, error.status)

    def _unrouted_error_response(self, error: ApiError, anthropic: bool, number: int) -> web.Response:
        """An error on a path that no dialect, or more than one, serves."""
        id = self._ids.id("req_", number)
        document = anthropic_error_body(error, id) if anthropic else openai_error_body(error)
        return _json_response(document, {"request-id" if anthropic else "x-request-id": id}, error.status)


def _json_response(document: Body, headers: Mapping[str, str], status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(document), content_type="application/json", headers=headers)


async def _main(models: Sequence[SimulatedModel]) -> None:
    for model in models:
        provider = SimulatedProvider(model)
        provider.max_recorded_requests = 0
        print(model.model, await provider.start(), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="simulated provider")
    parser.add_argument("--model", action="append", required=True, help="NAME:FIRST_TOKEN_SECONDS:TOKENS_PER_SECOND")
    parser.add_argument("--dialects", default=",".join(sorted(DIALECT_NAMES)), help="comma-separated dialects")
    parser.add_argument("--strict", action="store_true", help="refuse what the real API refuses")
    parser.add_argument("--key", help="the only accepted API key")
    arguments = parser.parse_args()
    common: dict[str, Any] = {
        "dialects": frozenset(arguments.dialects.split(",")),
        "strict": arguments.strict,
        "api_key": arguments.key,
    }
    models = []
    for option in arguments.model:
        name, first, rate = option.split(":")
        models.append(
            SimulatedModel(model=name, first_token_seconds=float(first), tokens_per_second=float(rate), **common)
        )
    asyncio.run(_main(models))


if __name__ == "__main__":
    main()
