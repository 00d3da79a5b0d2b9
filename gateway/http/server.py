"""The HTTP server for callers: aiohttp's low-level server and a table of paths.

No router, no middleware. Every error is answered in the caller's dialect; aiohttp's exceptions and texts never reach
the caller.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from urllib.parse import unquote

import orjson
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from ..dialects import DIALECTS, PARSERS, Dialect, models, openai_errors, passthrough
from ..pipeline.pipeline import Pipeline
from ..values.budget import ATTEMPT_DIMENSIONS, REQUEST_DIMENSIONS
from ..values.caller_response import CallerResponse
from ..values.errors import (
    BadRequest,
    CallerDisconnected,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    PenstockError,
    UpgradeRequired,
)
from ..values.request import Caller
from ..values.snapshot import Snapshot
from .admin import READ_METHODS, SERVER_HEADERS, AdminApi, read_json
from .approval_page import handle_approval
from .cors import CorsPolicy
from .ports import BudgetEndpoints, SessionEndpoints
from .request_body import read_body
from .request_headers import authenticate, collect_headers, parse_hints
from .request_paths import (
    ANTHROPIC_PREFIX,
    DIALECT_BY_PATH,
    dialect_of_error,
    is_passed_through,
    no_such_endpoint,
    normalized_path,
    provider_path,
)

log = logging.getLogger(__name__)

# Time limit for receiving a whole body.
_BODY_SECONDS = 60.0
# Time limit for a caller that does not read; applies only while its socket is full.
STALL_SECONDS = 60.0
_WRITE_BUFFER = 32 * 1024
# Bytes that a caller has to read within STALL_SECONDS: 35 kbit/s, whatever the size of the answer.
_WRITE_SLICE = 256 * 1024
_KEEPALIVE_SECONDS = 75.0
_READ_BUFFER = 256 * 1024
# Limits of a request's first line and of each header (Node.js's limit for all of them), and of their number.
_HEADER_LINE_MAX, _HEADERS_MAX = 16 * 1024, 128
_COUNT_TOKENS_PATH, _OWN_BUDGETS_PATH = "/v1/messages/count_tokens", "/v1/budgets/me"
_SESSIONS_PATH, _APPROVE_PATH = "/v1/sessions", "/approve/"
# Paths that web pages of allowed origins may call.
_PAGE_PATHS = ("/v1/", f"{ANTHROPIC_PREFIX}/")
# Methods of the endpoints that are passed through.
_PASSTHROUGH_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
# Dimensions beside the key's own that select budgets.
_BUDGET_QUERY_PARAMETERS = {*REQUEST_DIMENSIONS, *ATTEMPT_DIMENSIONS} - {"org", "team", "key"}

_INTERNAL_ERROR = "Internal server error; details are in the gateway's log."

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class HttpResponseWriter:
    """Writes the response to the caller; sends nothing before `begin`.

    headers: of every response to this request
    """

    def __init__(self, request: web.BaseRequest, headers: Mapping[str, str]) -> None:
        self._request = request
        self._headers = headers
        self.response: web.StreamResponse | None = None

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Sends the status line and headers. Raises CallerDisconnected."""
        self.response = web.StreamResponse(
            status=status, headers={**headers, **self._headers, "Cache-Control": "no-cache"}
        )
        try:
            await self.response.prepare(self._request)
        except ConnectionError as error:
            raise CallerDisconnected("Client closed the connection.") from error

    async def write(self, data: bytes) -> None:
        """Sends bytes, waiting while the socket is full. Raises CallerDisconnected."""
        assert self.response is not None, "a stream begins before it is written"
        transport = self._request.transport
        if transport is None:
            raise CallerDisconnected("Client closed the connection.")
        if transport.get_write_buffer_size() + len(data) < _WRITE_BUFFER:
            try:
                # Below aiohttp's high-water mark: this write does not wait.
                await self.response.write(data)
            except ConnectionError as error:
                raise CallerDisconnected("Client closed the connection.") from error
        else:
            await self._write_slices(self.response, data)

    async def send(self, response: web.StreamResponse) -> web.StreamResponse:
        """Sends the rest or the whole of a large response. Raises CallerDisconnected."""
        body = response.body if isinstance(response, web.Response) else None
        if isinstance(body, bytes) and (len(body) < _WRITE_BUFFER or self._request.method == "HEAD"):
            return response
        if isinstance(body, bytes):
            response = web.StreamResponse(status=response.status, headers={**response.headers, **self._headers})
            response.content_length = len(body)
            self.response = response
        async with self._guarded():
            await response.prepare(self._request)
        if isinstance(body, bytes):
            await self._write_slices(response, body)
        async with self._guarded():
            await response.write_eof()
        return response

    async def _write_slices(self, response: web.StreamResponse, data: bytes) -> None:
        """Writes data of any length; the caller has to read each slice in time. Raises CallerDisconnected."""
        view = memoryview(data)
        for start in range(0, len(view), _WRITE_SLICE):
            async with self._guarded():
                await response.write(view[start : start + _WRITE_SLICE])

    @asynccontextmanager
    async def _guarded(self) -> AsyncIterator[None]:
        """Limits the time of a write. Raises CallerDisconnected."""
        try:
            async with asyncio.timeout(STALL_SECONDS):
                yield
        except TimeoutError as error:
            self.abort()
            raise CallerDisconnected(f"Client read nothing for {STALL_SECONDS:g} seconds.") from error
        except ConnectionError as error:
            raise CallerDisconnected("Client closed the connection.") from error

    def abort(self) -> None:
        """Aborts the connection: the only way to signal an error once a stream has begun."""
        if self._request.transport is not None:
            self._request.transport.abort()


class Server:
    """Handles every request on the callers' port.

    open_requests: requests in flight, at most `requests_max`.
    """

    def __init__(  # noqa: PLR0913 - wired once, in app.py
        self,
        *,
        pipeline: Pipeline,
        snapshot: Callable[[], Snapshot],
        admin: AdminApi,
        body_bytes_max: int,
        requests_max: int,
        count_error: Callable[[str], None],
        budget_admin: BudgetEndpoints,
        session_admin: SessionEndpoints,
        cors: CorsPolicy | None = None,
    ) -> None:
        self._budget_admin = budget_admin
        self._session_admin = session_admin
        self._pipeline = pipeline
        self._snapshot = snapshot
        self._admin_api = admin
        self._body_bytes_max = body_bytes_max
        self._requests_max = requests_max
        self._count_error = count_error
        self._cors = cors if cors is not None and cors.is_on else None
        self.open_requests = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Handles one request: the answer with the headers that every answer has."""
        headers = SERVER_HEADERS if self._cors is None else self._headers_with_cors(request, self._cors)
        response = await self._respond(request, HttpResponseWriter(request, headers))
        if not response.prepared:
            response.headers.update(headers)
        return response

    async def _respond(self, request: web.BaseRequest, writer: HttpResponseWriter) -> web.StreamResponse:
        """Answers one request; the outermost handler, which catches any exception."""
        try:
            # The path as it was sent: an escaped slash or letter makes another path.
            dialect = DIALECT_BY_PATH.get(normalized_path(request.rel_url.raw_path))
            if dialect is not None and request.method == "POST":
                return await self._handle_dialect(request, writer, dialect)
            return await self._handle_other(request, writer)
        except CallerDisconnected:
            # The client is gone; aiohttp still needs a response to end the exchange.
            return _abort_started(writer) or web.Response(status=CallerDisconnected.status)
        except PenstockError as error:
            self._count_error(error.code)
            return _abort_started(writer) or _to_response(_error_dialect(request).error_response(error))
        except Exception:
            log.exception("request_failed method=%s", request.method)
            self._count_error(PenstockError.code)
            answer = _error_dialect(request).error_response(PenstockError(_INTERNAL_ERROR))
            return _abort_started(writer) or _to_response(answer)

    async def _handle_dialect(
        self, request: web.BaseRequest, writer: HttpResponseWriter, dialect: str
    ) -> web.StreamResponse:
        """Handles a request in one of the dialects."""
        headers, caller = self._authenticate(request)
        self._admit_call()
        try:
            parsed = PARSERS[dialect](await self._read_body(request, headers))
            answer = await self._pipeline.serve(parsed, caller, parse_hints(headers, self._snapshot()), writer)
        finally:
            self.open_requests -= 1
        return await _send_answer(answer, writer)

    async def _handle_other(self, request: web.BaseRequest, writer: HttpResponseWriter) -> web.StreamResponse:
        """Handles every path and method that is not a request in a dialect."""
        path = normalized_path(request.rel_url.raw_path)
        if path == "/v1/responses" and request.method == "GET" and request.headers.get("Upgrade"):
            # Codex tries a WebSocket first; 426 is the only status at which it falls back to POST immediately.
            return _to_response(
                openai_errors.error_response(UpgradeRequired("WebSockets are not supported; use POST."))
            )
        if path.startswith(_APPROVE_PATH):
            return await handle_approval(request, self._session_admin, unquote(path.removeprefix(_APPROVE_PATH)))
        methods = _methods_of(request.rel_url.raw_path)
        if methods is None:
            response = await self._admin_api.dispatch(request)
            if response is not None:
                return response
            raise NotFound(no_such_endpoint(request.method, request.rel_url.raw_path))
        if request.method == "OPTIONS":
            return self._handle_options(request, methods)
        if request.method not in methods:
            use = ", ".join(method for method in methods if method != "HEAD")
            raise MethodNotAllowed(f"Method not allowed: {request.method} {path[:100]}. Use {use}.", methods)
        if path == "/v1/models" or path.startswith("/v1/models/"):
            return self._handle_models(request, path)
        if path == _OWN_BUDGETS_PATH:
            return await self._handle_own_budgets(request)
        if path == _SESSIONS_PATH or path.startswith(f"{_SESSIONS_PATH}/"):
            return await self._handle_own_sessions(request)
        if path == _COUNT_TOKENS_PATH:
            return await self._handle_count_tokens(request, writer)
        return await self._handle_passthrough(request, writer)

    def _handle_options(self, request: web.BaseRequest, methods: tuple[str, ...]) -> web.Response:
        """Names the methods of a path; a browser's preflight learns whether its page may call it."""
        headers = {"Allow": ", ".join((*methods, "OPTIONS"))}
        if self._cors is not None:
            headers |= self._cors.preflight_headers(request.headers, methods)
        return web.Response(status=204, headers=headers)

    def _headers_with_cors(self, request: web.BaseRequest, cors: CorsPolicy) -> Mapping[str, str]:
        """Headers of every answer to a request; not of the operator's endpoints, which pages may never read."""
        if not request.rel_url.raw_path.startswith(_PAGE_PATHS):
            return SERVER_HEADERS
        return {**SERVER_HEADERS, **cors.answer_headers(request.headers.get("Origin"))}

    async def _handle_passthrough(self, request: web.BaseRequest, writer: HttpResponseWriter) -> web.StreamResponse:
        """Passes other endpoints (images, audio, files) through to the provider, metered."""
        headers, caller = self._authenticate(request)
        self._admit_call()
        try:
            body = await self._read_body(request, headers)
            path = provider_path(request.rel_url.raw_path_qs)
            dialect = "anthropic" if _is_anthropic_client(request) else "openai"
            parsed = passthrough.parse(request.method, path, headers.get("content-type", ""), body, dialect)
            answer = await self._pipeline.serve(parsed, caller, parse_hints(headers, self._snapshot()), writer)
        finally:
            self.open_requests -= 1
        return await _send_answer(answer, writer)

    async def _handle_count_tokens(self, request: web.BaseRequest, writer: HttpResponseWriter) -> web.StreamResponse:
        """Returns Anthropic's own count if the route leads there, else the estimate."""
        headers, caller = self._authenticate(request)
        self._admit_call()
        try:
            body = await self._read_body(request, headers)
            hints = parse_hints(headers, self._snapshot())
            parsed = PARSERS["messages"](body)
            estimate = self._pipeline.estimated_input_tokens(parsed, hints)
            if estimate is not None:
                return _to_response(models.json_response({"input_tokens": estimate}))
            path = provider_path(str(request.rel_url))
            forwarded = passthrough.parse("POST", path, "application/json", body, "anthropic")
            answer = await self._pipeline.serve(forwarded, caller, hints, writer)
        finally:
            self.open_requests -= 1
        return await _send_answer(answer, writer)

    def _authenticate(self, request: web.BaseRequest) -> tuple[dict[str, str], Caller]:
        """Returns the headers (lower-case names) and the caller. Raises Unauthenticated."""
        headers = collect_headers(request.headers)
        return headers, authenticate(headers, self._snapshot())

    def _admit_call(self) -> None:
        """Counts one more open request. Raises Overloaded."""
        if self.open_requests >= self._requests_max:
            raise Overloaded(f"Too many concurrent requests: the limit is {self._requests_max}. Retry in a moment.")
        self.open_requests += 1

    def _handle_models(self, request: web.BaseRequest, path: str) -> web.Response:
        snapshot = self._snapshot()
        self._authenticate(request)
        name = unquote(path.removeprefix("/v1/models")).strip("/")
        if name and snapshot.find_route(name) is None:
            raise NotFound(f"The model '{name[:100]}' does not exist.", code="model_not_found", param="model")
        anthropic = _is_anthropic_client(request)
        names = [route for route in snapshot.routes if not route.endswith("*")]
        return _to_response(
            models.model_entry(name, anthropic=anthropic) if name else models.model_list(names, anthropic=anthropic)
        )

    async def _handle_own_budgets(self, request: web.BaseRequest) -> web.Response:
        """Returns the budgets that apply to this key, with what is left of them."""
        _, caller = self._authenticate(request)
        unknown = set(request.query) - _BUDGET_QUERY_PARAMETERS
        if unknown:
            raise BadRequest(f"Unknown parameter: {', '.join(sorted(unknown))[:100]}.", param=min(unknown)[:100])
        budgets = await self._budget_admin.budgets_of(caller, dict(request.query))
        return web.Response(body=orjson.dumps(budgets), content_type="application/json")

    async def _handle_own_sessions(self, request: web.BaseRequest) -> web.Response:
        """Handles the caller's own sessions.

        POST /v1/sessions, GET /v1/sessions/ID, POST /v1/sessions/ID/outcome and /feedback.
        """
        _, caller = self._authenticate(request)
        name = unquote(request.rel_url.raw_path.removeprefix(ANTHROPIC_PREFIX).removeprefix(_SESSIONS_PATH)).strip("/")
        if request.method == "POST" and not name:
            body = await read_json(request)
            if isinstance(body.get("id"), str):
                await self._session_admin.ensure_loaded(body["id"], caller.key)
            document = self._session_admin.open_session(caller, body)
            await self._session_admin.flush()
        elif request.method == "POST" and name.endswith(("/outcome", "/feedback")):
            name, _, report = name.rpartition("/")
            body = await read_json(request)
            await self._session_admin.ensure_loaded(name, caller.key)
            admin = self._session_admin
            document = (admin.report_outcome if report == "outcome" else admin.record_feedback)(caller, name, body)
        elif request.method in READ_METHODS and name:
            await self._session_admin.ensure_loaded(name, caller.key)
            document = self._session_admin.get_own(caller, name)
        else:
            raise MethodNotAllowed(
                f"Method not allowed: {request.method} {request.path[:100]}. "
                "See POST /v1/sessions, GET /v1/sessions/ID, POST /v1/sessions/ID/outcome and /feedback.",
                ("POST",) if not name else READ_METHODS,
            )
        return web.Response(body=orjson.dumps(document), content_type="application/json")

    async def _read_body(self, request: web.BaseRequest, headers: Mapping[str, str]) -> bytes | bytearray:
        """Returns the whole body within the limits, decoded. Raises CallerError."""
        return await read_body(request, headers, bytes_max=self._body_bytes_max, seconds_max=_BODY_SECONDS)


class _RequestProtocol(RequestHandler):
    """aiohttp's protocol with our error response, which never echoes invalid input."""

    __slots__ = ("count_error",)
    count_error: Callable[[str], None]

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        error = PenstockError(_INTERNAL_ERROR)
        if status < 500:
            error = _invalid_http(exc)
        elif exc is not None:
            log.error("http_protocol_failed error=%s", type(exc).__name__, exc_info=exc)
        self.count_error(error.code)
        response = _to_response(openai_errors.error_response(error))
        response.headers.update(SERVER_HEADERS)
        response.force_close()
        return response


class _AiohttpServer(web.Server):
    def __init__(self, handler: Handler, count_error: Callable[[str], None]) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._count_error = count_error

    def __call__(self) -> RequestHandler:
        protocol = _RequestProtocol(
            self,
            loop=self._loop,
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes None for "no log"
            keepalive_timeout=_KEEPALIVE_SECONDS,
            read_bufsize=_READ_BUFFER,
            max_line_size=_HEADER_LINE_MAX,
            max_field_size=_HEADER_LINE_MAX,
            max_headers=_HEADERS_MAX,
            # aiohttp would answer a coding that it cannot decode as invalid HTTP.
            auto_decompress=False,
        )
        protocol.count_error = self._count_error
        return protocol


def server_runner(
    handler: Handler, *, drain_seconds: float, count_error: Callable[[str], None] = lambda code: None
) -> web.ServerRunner:
    """Returns a server for one handler.

    A client that disconnects cancels its request at any point (`handler_cancellation`).
    """
    return web.ServerRunner(_AiohttpServer(handler, count_error), shutdown_timeout=drain_seconds)


def _invalid_http(exc: BaseException | None) -> BadRequest:
    """Returns the error for bytes that aiohttp does not accept as a request."""
    if isinstance(exc, LineTooLong) or "Too many headers" in str(exc):
        message = (
            f"Headers too large: at most {_HEADERS_MAX}, and {_HEADER_LINE_MAX} bytes in each and in the first line."
        )
        error = BadRequest(message, code="invalid_http")
        error.status = 431
        return error
    return BadRequest("Invalid HTTP request.", code="invalid_http")


def _methods_of(raw_path: str) -> tuple[str, ...] | None:
    """Returns the methods of a path, None for the operator's endpoints and unknown paths."""
    path = normalized_path(raw_path)
    if path in DIALECT_BY_PATH or path in (_COUNT_TOKENS_PATH, _SESSIONS_PATH):
        return ("POST",)
    if path == "/v1/models" or path.startswith("/v1/models/") or path == _OWN_BUDGETS_PATH:
        return READ_METHODS
    if path.startswith(f"{_SESSIONS_PATH}/"):
        return (*READ_METHODS, "POST")
    return _PASSTHROUGH_METHODS if raw_path == "*" or is_passed_through(raw_path) else None


def _is_anthropic_client(request: web.BaseRequest) -> bool:
    return (
        "anthropic-version" in request.headers
        or request.path.startswith(ANTHROPIC_PREFIX)
        or request.path.startswith("/v1/messages")
    )


def _error_dialect(request: web.BaseRequest) -> Dialect:
    """Returns the dialect of the error response."""
    raw_path = request.rel_url.raw_path
    dialect = DIALECT_BY_PATH.get(normalized_path(raw_path)) or dialect_of_error(raw_path)
    return DIALECTS[dialect or ("messages" if _is_anthropic_client(request) else "chat")]


async def _send_answer(answer: CallerResponse, writer: HttpResponseWriter) -> web.StreamResponse:
    if not answer.already_sent:
        return await writer.send(_to_response(answer))
    assert writer.response is not None
    return await writer.send(writer.response)


def _abort_started(writer: HttpResponseWriter) -> web.StreamResponse | None:
    """Aborts a stream that has begun and returns it; None if nothing was sent yet."""
    if writer.response is not None:
        writer.abort()
    return writer.response


def _to_response(answer: CallerResponse) -> web.Response:
    response = web.Response(status=answer.status, headers=answer.headers, body=answer.body)
    if "x-request-id" not in answer.headers and "x-penstock-request-id" in answer.headers:
        response.headers["x-request-id"] = answer.headers["x-penstock-request-id"]
    return response
