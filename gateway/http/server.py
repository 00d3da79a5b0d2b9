"""The street door for callers: aiohttp's low-level server, one function from HTTP request to HTTP response.

No router, no middleware: a table of paths. Every error leaves here in the caller's dialect, and none of aiohttp's
exceptions or texts passes.
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

# A body that dribbles in longer than this is given up.
_BODY_SECONDS = 60.0
# A caller who does not read is given up after this; watched only while its socket is full.
STALL_SECONDS = 60.0
_WRITE_BUFFER = 32 * 1024
_KEEPALIVE_SECONDS = 75.0
_READ_BUFFER = 256 * 1024
# What callers may ask for, and the dialect they ask in. Anthropic's clients may have /anthropic in their base URL.
_DIALECT_BY_PATH = {
    "/v1/chat/completions": "chat", "/v1/responses": "responses", "/v1/messages": "messages",
    "/v1/embeddings": "embeddings", "/v1/completions": "completions",
}  # fmt: skip
_ANTHROPIC_PREFIX, _COUNT_TOKENS_PATH, _OWN_BUDGETS_PATH = "/anthropic", "/v1/messages/count_tokens", "/v1/budgets/me"
_SESSIONS_PATH, _APPROVE_PATH = "/v1/sessions", "/approve/"
# What beside the key may decide which budgets meet a request.
_BUDGET_QUERY_PARAMETERS = {*REQUEST_DIMENSIONS, *ATTEMPT_DIMENSIONS} - {"org", "team", "key"}
# The account's own administration, what hands out keys to it, and what others stored with it, are nobody's business here.
_BLOCKED_PREFIXES = (
    "/v1/organization", "/v1/projects", "/v1/api_keys", "/v1/admin", "/v1/realtime", "/v1/chat", "/v1/completions",
    "/v1/embeddings",
)  # fmt: skip
# What may pass through is spelt in one way only: no escapes, no empty segments, none of dots alone.
_PASSTHROUGH_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~:@=+-]+)+")

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class HttpResponseWriter:
    """The caller's side of a stream; nothing is sent before `begin`."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self.response: web.StreamResponse | None = None

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status line. Raises CallerGone."""
        self.response = web.StreamResponse(
            status=status, headers={**headers, "Server": "penstock", "Cache-Control": "no-cache"}
        )
        try:
            await self.response.prepare(self._request)
        except ConnectionError as error:
            raise CallerDisconnected("The caller hung up.") from error

    async def write(self, data: bytes) -> None:
        """Send bytes; waits while the caller's socket is full. Raises CallerGone."""
        assert self.response is not None, "a stream begins before it is written"
        transport = self._request.transport
        if transport is None:
            raise CallerDisconnected("The caller hung up.")
        try:
            if transport.get_write_buffer_size() + len(data) < _WRITE_BUFFER:
                # Fits below aiohttp's own mark: this write waits for nobody.
                await self.response.write(data)
            else:
                async with asyncio.timeout(STALL_SECONDS):
                    await self.response.write(data)
        except TimeoutError as error:
            self.abort()
            raise CallerDisconnected("The caller did not read its answer.") from error
        except ConnectionError as error:
            raise CallerDisconnected("The caller hung up.") from error

    async def send(self, response: web.StreamResponse) -> web.StreamResponse:
        """Send the rest, or the whole of a large answer: a caller who does not read is given up here as well."""
        body = response.body if isinstance(response, web.Response) else None
        if isinstance(body, bytes) and len(body) < _WRITE_BUFFER:
            return response
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await response.prepare(self._request)
                await response.write_eof()
        except TimeoutError as error:
            self.abort()
            raise CallerDisconnected("The caller did not read its answer.") from error
        except ConnectionError as error:
            raise CallerDisconnected("The caller hung up.") from error
        return response

    def abort(self) -> None:
        """End the connection: after a stream has begun there is no other way to say that it went wrong."""
        if self._request.transport is not None:
            self._request.transport.abort()


class Server:
    """Answers every request on the callers' port."""

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        snapshot: Callable[[], Snapshot],
        admin: AdminApi,
        body_bytes_max: int,
        calls_max: int,
        count_error: Callable[[str], None],
        budget_admin: BudgetEndpoints,
        session_admin: SessionEndpoints,
    ) -> None:
        self._budget_admin = budget_admin
        self._session_admin = session_admin
        self._pipeline = pipeline
        self._world = snapshot
        self._admin_api = admin
        self._body_bytes_max = body_bytes_max
        self._calls_max = calls_max
        self._count_error = count_error
        self.open_calls = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The outermost handler: one of two places where any exception is caught."""
        reply = HttpResponseWriter(request)
        try:
            name = _DIALECT_BY_PATH.get(_normalized_path(request.path))
            if name is not None and request.method == "POST":
                return await self._handle_dialect(request, reply, name)
            return await self._handle_other(request, reply)
        except CallerDisconnected:
            # Nobody is there to read this; aiohttp needs some response to end the exchange.
            return _abort_started(reply) or web.Response(status=CallerDisconnected.status)
        except PenstockError as error:
            self._count_error(error.code)
            return _abort_started(reply) or _to_response(_error_dialect(request).error_answer(error))
        except Exception:
            log.exception("a request failed in an unforeseen way")
            self._count_error(PenstockError.code)
            answer = _error_dialect(request).error_answer(
                PenstockError("Something went wrong here; it has been logged.")
            )
            return _abort_started(reply) or _to_response(answer)

    async def _handle_dialect(
        self, request: web.BaseRequest, reply: HttpResponseWriter, name: str
    ) -> web.StreamResponse:
        """A request in one of the dialects."""
        headers, caller = self._authenticate(request)
        self._admit_call()
        try:
            parsed = PARSERS[name](await self._read_body(request, headers))
            answer = await self._pipeline.serve(parsed, caller, parse_hints(headers, self._world()), reply)
        finally:
            self.open_calls -= 1
        return await _send_answer(answer, reply)

    async def _handle_other(self, request: web.BaseRequest, reply: HttpResponseWriter) -> web.StreamResponse:
        """Everything that is no request in a dialect."""
        path = _normalized_path(request.path)
        if path == "/v1/responses" and request.method == "GET" and request.headers.get("Upgrade"):
            # Codex asks for a WebSocket first; this is the one status at which it falls back to POST at once.
            return _to_response(
                openai_errors.error_answer(UpgradeRequired("WebSockets are not spoken here; use POST."))
            )
        if path in _DIALECT_BY_PATH:
            raise MethodNotAllowed(f"{request.method} is not possible here; use POST.")
        if path == "/v1/models" or path.startswith("/v1/models/"):
            return self._handle_models(request, path)
        if path == _OWN_BUDGETS_PATH:
            return await self._handle_own_budgets(request)
        if path == _SESSIONS_PATH or path.startswith(f"{_SESSIONS_PATH}/"):
            return await self._handle_own_sessions(request)
        if path.startswith(_APPROVE_PATH):
            return await handle_approval(request, self._session_admin, path.removeprefix(_APPROVE_PATH))
        if path == _COUNT_TOKENS_PATH and request.method == "POST":
            return await self._handle_count_tokens(request, reply)
        found = await self._admin_api.dispatch(request)
        if found is not None:
            return found
        below = request.rel_url.raw_path.removeprefix(_ANTHROPIC_PREFIX).removeprefix("/v1")
        if (
            not path.startswith("/v1/")
            or path.lower().startswith(_BLOCKED_PREFIXES)
            or _PASSTHROUGH_PATH.fullmatch(below) is None
        ):
            raise NotFound(f"There is nothing at {request.method} {request.path[:100]}. See GET /v1/models.")
        return await self._handle_passthrough(request, reply)

    async def _handle_passthrough(self, request: web.BaseRequest, reply: HttpResponseWriter) -> web.StreamResponse:
        """Images, audio, files, ...: on to the provider, metered."""
        headers, caller = self._authenticate(request)
        self._admit_call()
        try:
            body = await self._read_body(request, headers)
            path = request.rel_url.raw_path_qs.removeprefix(_ANTHROPIC_PREFIX).removeprefix("/v1")
            dialect = "anthropic" if _speaks_anthropic(request) else "openai"
            parsed = passthrough.parse(request.method, path, headers.get("content-type", ""), body, dialect)
            answer = await self._pipeline.serve(parsed, caller, parse_hints(headers, self._world()), reply)
        finally:
            self.open_calls -= 1
        return await _send_answer(answer, reply)

    async def _handle_count_tokens(self, request: web.BaseRequest, reply: HttpResponseWriter) -> web.StreamResponse:
        """Anthropic's own count where the route leads to it, else our estimate."""
        headers, caller = self._authenticate(request)
        self._admit_call()
        try:
            body = await self._read_body(request, headers)
            hints = parse_hints(headers, self._world())
            parsed = PARSERS["messages"](body)
            estimate = self._pipeline.estimated_input_tokens(parsed, hints)
            if estimate is not None:
                return _to_response(models.json_answer({"input_tokens": estimate}))
            path = str(request.rel_url).removeprefix(_ANTHROPIC_PREFIX).removeprefix("/v1")
            passing = passthrough.parse("POST", path, "application/json", body, "anthropic")
            answer = await self._pipeline.serve(passing, caller, hints, reply)
        finally:
            self.open_calls -= 1
        return await _send_answer(answer, reply)

    def _authenticate(self, request: web.BaseRequest) -> tuple[dict[str, str], Caller]:
        """The headers, names in lower case, and whose they are. Raises Unauthenticated."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        caller = authenticate(headers, self._world())
        if "expect" in headers and self.open_calls < self._calls_max:
            _send_continue(request, headers["expect"])
        return headers, caller

    def _admit_call(self) -> None:
        """One more call in flight. Raises Overloaded."""
        if self.open_calls >= self._calls_max:
            raise Overloaded("Too many calls are in flight here; try again in a moment.")
        self.open_calls += 1

    def _handle_models(self, request: web.BaseRequest, path: str) -> web.Response:
        if request.method != "GET":
            raise MethodNotAllowed(f"{request.method} is not possible here; use GET.")
        snapshot = self._world()
        authenticate({name.lower(): value for name, value in request.headers.items()}, snapshot)
        name = path.removeprefix("/v1/models").strip("/")
        if name and snapshot.find_route(name) is None:
            raise NotFound(f"The model '{name[:100]}' does not exist here.", code="model_not_found", param="model")
        anthropic = _speaks_anthropic(request)
        listed = [route for route in snapshot.routes if not route.endswith("*")]
        return _to_response(
            models.model_entry(name, anthropic=anthropic) if name else models.model_list(listed, anthropic=anthropic)
        )

    async def _handle_own_budgets(self, request: web.BaseRequest) -> web.Response:
        """How the budgets stand that meet this key."""
        if request.method != "GET":
            raise MethodNotAllowed(f"{request.method} is not possible here; use GET.")
        caller = authenticate({name.lower(): value for name, value in request.headers.items()}, self._world())
        unknown = set(request.query) - _BUDGET_QUERY_PARAMETERS
        if unknown:
            raise BadRequest(f"Unknown parameter {', '.join(sorted(unknown))[:100]}.", param=min(unknown)[:100])
        mine = await self._budget_admin.budgets_of(caller, dict(request.query))
        return web.Response(body=orjson.dumps(mine), content_type="application/json")

    async def _handle_own_sessions(self, request: web.BaseRequest) -> web.Response:
        """POST /v1/sessions opens a run and says what it may take; GET /v1/sessions/ID tells how it stands; how it went
        is told by POST to its /outcome and /feedback."""
        caller = authenticate({name.lower(): value for name, value in request.headers.items()}, self._world())
        name = unquote(request.rel_url.raw_path.removeprefix(_ANTHROPIC_PREFIX).removeprefix(_SESSIONS_PATH)).strip("/")
        if request.method == "POST" and not name:
            asked = await read_json(request)
            if isinstance(asked.get("id"), str):
                await self._session_admin.ensure_loaded(asked["id"], caller.key)
            told = self._session_admin.open_session(caller, asked)
            await self._session_admin.flush()
        elif request.method == "POST" and name.endswith(("/outcome", "/feedback")):
            name, _, what = name.rpartition("/")
            asked = await read_json(request)
            await self._session_admin.ensure_loaded(name, caller.key)
            budget_admin = self._session_admin
            told = (budget_admin.report_outcome if what == "outcome" else budget_admin.record_feedback)(
                caller, name, asked
            )
        elif request.method == "GET" and name:
            await self._session_admin.ensure_loaded(name, caller.key)
            told = self._session_admin.get_own(caller, name)
        else:
            raise MethodNotAllowed(
                "See POST /v1/sessions, GET /v1/sessions/ID, POST /v1/sessions/ID/outcome and /feedback."
            )
        return web.Response(body=orjson.dumps(told), content_type="application/json")

    async def _read_body(self, request: web.BaseRequest, headers: Mapping[str, str]) -> bytes | bytearray:
        """The whole body, bounded in size and time."""
        limit, content = self._body_bytes_max, request.content
        if (request.content_length or 0) > limit:
            raise BodyTooLarge(f"The body is over {limit} bytes.")
        if content.is_eof():
            whole = content.read_nowait(-1)
            if len(whole) > limit:
                raise BodyTooLarge(f"The body is over {limit} bytes.")
            return whole
        # Room for the whole at once where its length is told, rather than growing and copying.
        body = bytearray(0 if "content-encoding" in headers else request.content_length or 0)
        size = 0
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while data := await content.readany():
                    end = size + len(data)
                    if end > limit:
                        raise BodyTooLarge(f"The body is over {limit} bytes.")
                    body[size:end] = data
                    size = end
        except TimeoutError as error:
            raise BadRequest("The body did not arrive in time.", code="body_timeout") from error
        except (web.RequestPayloadError, ConnectionError) as error:
            raise BadRequest("The body could not be read to its end.", code="body_broken") from error
        del body[size:]
        return body


class _RequestProtocol(RequestHandler):
    """aiohttp's protocol, with our words where it would echo what it could not parse."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        error = PenstockError("Something went wrong here; it has been logged.")
        if status < 500:
            error = BadRequest("This is not a valid HTTP request.", code="bad_http")
            error.status = status
        elif exc is not None:
            log.error("the HTTP layer failed", exc_info=exc)
        response = _to_response(openai_errors.error_answer(error))
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
    """A server for one handler. `handler_cancellation`: a caller who hangs up cancels the call, whatever it waits for."""
    server = _AiohttpServer(handler, handler_cancellation=True)
    return web.ServerRunner(server, shutdown_timeout=drain_seconds)


def _speaks_anthropic(request: web.BaseRequest) -> bool:
    return (
        "anthropic-version" in request.headers
        or request.path.startswith(_ANTHROPIC_PREFIX)
        or request.path.startswith("/v1/messages")
    )


def _error_dialect(request: web.BaseRequest) -> Dialect:
    """In which dialect errors are told."""
    name = _DIALECT_BY_PATH.get(_normalized_path(request.path))
    return DIALECTS[name or ("messages" if _speaks_anthropic(request) else "chat")]


def _normalized_path(path: str) -> str:
    """A path without Anthropic's prefix and a slash at its end."""
    return path.removeprefix(_ANTHROPIC_PREFIX).rstrip("/")


async def _send_answer(answer: CallerResponse, reply: HttpResponseWriter) -> web.StreamResponse:
    if not answer.already_sent:
        return await reply.send(_to_response(answer))
    assert reply.response is not None
    return await reply.send(reply.response)


def _abort_started(reply: HttpResponseWriter) -> web.StreamResponse | None:
    """The stream that had begun when things went wrong, its connection ended; None if nothing was sent yet."""
    if reply.response is not None:
        reply.abort()
    return reply.response


def _send_continue(request: web.BaseRequest, expectation: str) -> None:
    """`Expect: 100-continue`: the caller waits with its body until it is told to send it."""
    if expectation.lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _to_response(answer: CallerResponse) -> web.Response:
    response = web.Response(status=answer.status, headers=answer.headers, body=answer.body)
    response.headers["Server"] = "penstock"
    if "x-request-id" not in answer.headers and "x-penstock-request-id" in answer.headers:
        response.headers["x-request-id"] = answer.headers["x-penstock-request-id"]
    return response
