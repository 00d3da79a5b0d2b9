"""The HTTP server for callers: aiohttp's low-level server and a table of paths.

No router, no middleware. Every error is answered in the caller's dialect; aiohttp's exceptions and texts never reach
the caller.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import unquote

import orjson
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from ..dialects import DIALECTS, PARSERS, Dialect, models, openai_errors, passthrough
from ..pipeline.pipeline import Pipeline
from ..values.budget import ATTEMPT_DIMENSIONS, REQUEST_DIMENSIONS
from ..values.caller_response import CallerResponse
from ..values.errors import (
    BadRequest,
    BodyTooLarge,
    CallerDisconnected,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    PenstockError,
    UpgradeRequired,
)
from ..values.request import Caller
from ..values.snapshot import Snapshot
from .admin import AdminApi, read_json
from .approval_page import handle_approval
from .ports import BudgetEndpoints, SessionEndpoints
from .request_headers import authenticate, parse_hints

log = logging.getLogger(__name__)

# Time limit for receiving a whole body.
_BODY_SECONDS = 60.0
# Time limit for a caller that does not read; applies only while its socket is full.
STALL_SECONDS = 60.0
_WRITE_BUFFER = 32 * 1024
_KEEPALIVE_SECONDS = 75.0
_READ_BUFFER = 256 * 1024
# Path -> dialect of its requests. Anthropic's clients may have /anthropic in their base URL.
_DIALECT_BY_PATH = {
    "/v1/chat/completions": "chat", "/v1/responses": "responses", "/v1/messages": "messages",
    "/v1/embeddings": "embeddings", "/v1/completions": "completions",
}  # fmt: skip
_ANTHROPIC_PREFIX, _COUNT_TOKENS_PATH, _OWN_BUDGETS_PATH = "/anthropic", "/v1/messages/count_tokens", "/v1/budgets/me"
_SESSIONS_PATH, _APPROVE_PATH = "/v1/sessions", "/approve/"
# Dimensions beside the key's own that select budgets.
_BUDGET_QUERY_PARAMETERS = {*REQUEST_DIMENSIONS, *ATTEMPT_DIMENSIONS} - {"org", "team", "key"}
# Never passed through: the account's administration, endpoints that hand out keys, and data that other callers stored.
_BLOCKED_PREFIXES = (
    "/v1/organization", "/v1/projects", "/v1/api_keys", "/v1/admin", "/v1/realtime", "/v1/chat", "/v1/completions",
    "/v1/embeddings",
)  # fmt: skip
# Canonical paths only: no escapes, no empty segments, no segments of dots alone.
_PASSTHROUGH_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~:@=+-]+)+")

_INTERNAL_ERROR = "Internal server error; details are in the gateway's log."

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class HttpResponseWriter:
    """Writes the response to the caller; sends nothing before `begin`."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self.response: web.StreamResponse | None = None

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Sends the status line and headers. Raises CallerDisconnected."""
        self.response = web.StreamResponse(
            status=status, headers={**headers, "Server": "penstock", "Cache-Control": "no-cache"}
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
        try:
            if transport.get_write_buffer_size() + len(data) < _WRITE_BUFFER:
                # Below aiohttp's high-water mark: this write does not wait.
                await self.response.write(data)
            else:
                async with asyncio.timeout(STALL_SECONDS):
                    await self.response.write(data)
        except TimeoutError as error:
            self.abort()
            raise CallerDisconnected(f"Client read nothing for {STALL_SECONDS:g} seconds.") from error
        except ConnectionError as error:
            raise CallerDisconnected("Client closed the connection.") from error

    async def send(self, response: web.StreamResponse) -> web.StreamResponse:
        """Sends the rest or the whole of a large response. Raises CallerDisconnected."""
        body = response.body if isinstance(response, web.Response) else None
        if isinstance(body, bytes) and len(body) < _WRITE_BUFFER:
            return response
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await response.prepare(self._request)
                await response.write_eof()
        except TimeoutError as error:
            self.abort()
            raise CallerDisconnected(f"Client read nothing for {STALL_SECONDS:g} seconds.") from error
        except ConnectionError as error:
            raise CallerDisconnected("Client closed the connection.") from error
        return response

    def abort(self) -> None:
        """Aborts the connection: the only way to signal an error once a stream has begun."""
        if self._request.transport is not None:
            self._request.transport.abort()


class Server:
    """Handles every request on the callers' port.

    open_requests: requests in flight, at most `requests_max`.
    """

    def __init__(
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
    ) -> None:
        self._budget_admin = budget_admin
        self._session_admin = session_admin
        self._pipeline = pipeline
        self._snapshot = snapshot
        self._admin_api = admin
        self._body_bytes_max = body_bytes_max
        self._requests_max = requests_max
        self._count_error = count_error
        self.open_requests = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Handles one request; the outermost handler, which catches any exception."""
        writer = HttpResponseWriter(request)
        try:
            dialect = _DIALECT_BY_PATH.get(_normalized_path(request.path))
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
        path = _normalized_path(request.path)
        if path == "/v1/responses" and request.method == "GET" and request.headers.get("Upgrade"):
            # Codex tries a WebSocket first; 426 is the only status at which it falls back to POST immediately.
            return _to_response(
                openai_errors.error_response(UpgradeRequired("WebSockets are not supported; use POST."))
            )
        if path in _DIALECT_BY_PATH:
            raise MethodNotAllowed(f"Method not allowed: {request.method} {path}. Use POST.")
        if path == "/v1/models" or path.startswith("/v1/models/"):
            return self._handle_models(request, path)
        if path == _OWN_BUDGETS_PATH:
            return await self._handle_own_budgets(request)
        if path == _SESSIONS_PATH or path.startswith(f"{_SESSIONS_PATH}/"):
            return await self._handle_own_sessions(request)
        if path.startswith(_APPROVE_PATH):
            return await handle_approval(request, self._session_admin, path.removeprefix(_APPROVE_PATH))
        if path == _COUNT_TOKENS_PATH and request.method == "POST":
            return await self._handle_count_tokens(request, writer)
        response = await self._admin_api.dispatch(request)
        if response is not None:
            return response
        provider_path = request.rel_url.raw_path.removeprefix(_ANTHROPIC_PREFIX).removeprefix("/v1")
        if (
            not path.startswith("/v1/")
            or path.lower().startswith(_BLOCKED_PREFIXES)
            or _PASSTHROUGH_PATH.fullmatch(provider_path) is None
        ):
            raise NotFound(_no_such_endpoint(request, path))
        return await self._handle_passthrough(request, writer)

    async def _handle_passthrough(self, request: web.BaseRequest, writer: HttpResponseWriter) -> web.StreamResponse:
        """Passes other endpoints (images, audio, files) through to the provider, metered."""
        headers, caller = self._authenticate(request)
        self._admit_call()
        try:
            body = await self._read_body(request, headers)
            path = request.rel_url.raw_path_qs.removeprefix(_ANTHROPIC_PREFIX).removeprefix("/v1")
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
            path = str(request.rel_url).removeprefix(_ANTHROPIC_PREFIX).removeprefix("/v1")
            forwarded = passthrough.parse("POST", path, "application/json", body, "anthropic")
            answer = await self._pipeline.serve(forwarded, caller, hints, writer)
        finally:
            self.open_requests -= 1
        return await _send_answer(answer, writer)

    def _authenticate(self, request: web.BaseRequest) -> tuple[dict[str, str], Caller]:
        """Returns the headers (lower-case names) and the caller. Raises Unauthenticated."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        caller = authenticate(headers, self._snapshot())
        if "expect" in headers and self.open_requests < self._requests_max:
            _send_continue(request, headers["expect"])
        return headers, caller

    def _admit_call(self) -> None:
        """Counts one more open request. Raises Overloaded."""
        if self.open_requests >= self._requests_max:
            raise Overloaded(f"Too many concurrent requests: the limit is {self._requests_max}. Retry in a moment.")
        self.open_requests += 1

    def _handle_models(self, request: web.BaseRequest, path: str) -> web.Response:
        if request.method != "GET":
            raise MethodNotAllowed(f"{request.method} is not possible here; use GET.")
        snapshot = self._snapshot()
        authenticate({name.lower(): value for name, value in request.headers.items()}, snapshot)
        name = path.removeprefix("/v1/models").strip("/")
        if name and snapshot.find_route(name) is None:
            raise NotFound(f"The model '{name[:100]}' does not exist.", code="model_not_found", param="model")
        anthropic = _is_anthropic_client(request)
        names = [route for route in snapshot.routes if not route.endswith("*")]
        return _to_response(
            models.model_entry(name, anthropic=anthropic) if name else models.model_list(names, anthropic=anthropic)
        )

    async def _handle_own_budgets(self, request: web.BaseRequest) -> web.Response:
        """Returns the budgets that apply to this key, with what is left of them."""
        if request.method != "GET":
            raise MethodNotAllowed(f"Method not allowed: {request.method} {_OWN_BUDGETS_PATH}. Use GET.")
        caller = authenticate({name.lower(): value for name, value in request.headers.items()}, self._snapshot())
        unknown = set(request.query) - _BUDGET_QUERY_PARAMETERS
        if unknown:
            raise BadRequest(f"Unknown parameter: {', '.join(sorted(unknown))[:100]}.", param=min(unknown)[:100])
        budgets = await self._budget_admin.budgets_of(caller, dict(request.query))
        return web.Response(body=orjson.dumps(budgets), content_type="application/json")

    async def _handle_own_sessions(self, request: web.BaseRequest) -> web.Response:
        """Handles the caller's own sessions.

        POST /v1/sessions, GET /v1/sessions/ID, POST /v1/sessions/ID/outcome and /feedback.
        """
        caller = authenticate({name.lower(): value for name, value in request.headers.items()}, self._snapshot())
        name = unquote(request.rel_url.raw_path.removeprefix(_ANTHROPIC_PREFIX).removeprefix(_SESSIONS_PATH)).strip("/")
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
        elif request.method == "GET" and name:
            await self._session_admin.ensure_loaded(name, caller.key)
            document = self._session_admin.get_own(caller, name)
        else:
            raise MethodNotAllowed(
                f"Method not allowed: {request.method} {request.path[:100]}. "
                "See POST /v1/sessions, GET /v1/sessions/ID, POST /v1/sessions/ID/outcome and /feedback."
            )
        return web.Response(body=orjson.dumps(document), content_type="application/json")

    async def _read_body(self, request: web.BaseRequest, headers: Mapping[str, str]) -> bytes | bytearray:
        """Returns the whole body within the limits. Raises BodyTooLarge and BadRequest."""
        limit, content = self._body_bytes_max, request.content
        if (request.content_length or 0) > limit:
            raise BodyTooLarge(f"Request body too large: the limit is {limit} bytes.")
        if content.is_eof():
            received = content.read_nowait(-1)
            if len(received) > limit:
                raise BodyTooLarge(f"Request body too large: the limit is {limit} bytes.")
            return received
        # Allocated once if the length is known, rather than growing and copying.
        body = bytearray(0 if "content-encoding" in headers else request.content_length or 0)
        size = 0
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while data := await content.readany():
                    end = size + len(data)
                    if end > limit:
                        raise BodyTooLarge(f"Request body too large: the limit is {limit} bytes.")
                    body[size:end] = data
                    size = end
        except TimeoutError as error:
            raise BadRequest(
                f"Request body not received within {_BODY_SECONDS:g} seconds.", code="body_timeout"
            ) from error
        except (web.RequestPayloadError, ConnectionError) as error:
            raise BadRequest("Incomplete request body.", code="incomplete_body") from error
        del body[size:]
        return body


class _RequestProtocol(RequestHandler):
    """aiohttp's protocol with our error response, which never echoes invalid input."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        error = PenstockError(_INTERNAL_ERROR)
        if status < 500:
            error = BadRequest("Invalid HTTP request.", code="invalid_http")
            error.status = status
        elif exc is not None:
            log.error("http_protocol_failed error=%s", type(exc).__name__, exc_info=exc)
        response = _to_response(openai_errors.error_response(error))
        response.force_close()
        return response


class _AiohttpServer(web.Server):
    def __call__(self) -> RequestHandler:
        return _RequestProtocol(
            self,
            loop=self._loop,
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes None for "no log"
            keepalive_timeout=_KEEPALIVE_SECONDS,
            read_bufsize=_READ_BUFFER,
        )


def server_runner(handler: Handler, *, drain_seconds: float) -> web.ServerRunner:
    """Returns a server for one handler.

    A client that disconnects cancels its request at any point (`handler_cancellation`).
    """
    server = _AiohttpServer(handler, handler_cancellation=True)
    return web.ServerRunner(server, shutdown_timeout=drain_seconds)


def _no_such_endpoint(request: web.BaseRequest, path: str) -> str:
    message = f"No such endpoint: {request.method} {request.path[:100]}."
    if path.startswith("/v1/"):
        return message
    return f"{message} Endpoints begin with /v1; check that the base URL is http://HOST:PORT/v1."


def _is_anthropic_client(request: web.BaseRequest) -> bool:
    return (
        "anthropic-version" in request.headers
        or request.path.startswith(_ANTHROPIC_PREFIX)
        or request.path.startswith("/v1/messages")
    )


def _error_dialect(request: web.BaseRequest) -> Dialect:
    """Returns the dialect of the error response."""
    dialect = _DIALECT_BY_PATH.get(_normalized_path(request.path))
    return DIALECTS[dialect or ("messages" if _is_anthropic_client(request) else "chat")]


def _normalized_path(path: str) -> str:
    """Returns a path without Anthropic's prefix and trailing slashes."""
    return path.removeprefix(_ANTHROPIC_PREFIX).rstrip("/")


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


def _send_continue(request: web.BaseRequest, expectation: str) -> None:
    """Sends `100 Continue` to a caller that waits for it before it sends its body."""
    if expectation.lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _to_response(answer: CallerResponse) -> web.Response:
    response = web.Response(status=answer.status, headers=answer.headers, body=answer.body)
    response.headers["Server"] = "penstock"
    if "x-request-id" not in answer.headers and "x-penstock-request-id" in answer.headers:
        response.headers["x-request-id"] = answer.headers["x-penstock-request-id"]
    return response
