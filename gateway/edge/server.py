"""The street door for callers: aiohttp's low-level server, one function from HTTP request to HTTP response.

No router, no middleware: a table of paths. Every error leaves here in the caller's dialect, and none of aiohttp's
exceptions or texts passes.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from ..errors import (
    BadRequest,
    BodyTooLarge,
    CallerGone,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    PenstockError,
    Unauthenticated,
)
from ..exchange import Exchange
from ..providers.openai_compatible import forwarded
from ..values.answer import Answer
from ..values.request import Caller, Hints
from ..values.world import World
from ..wire import chat, models
from .admin import Admin

log = logging.getLogger(__name__)

# A body that dribbles in longer than this is given up.
_BODY_SECONDS = 60.0
# A caller who does not read is given up after this; watched only while its socket is full.
STALL_SECONDS = 60.0
_WRITE_BUFFER = 32 * 1024
_KEEPALIVE_SECONDS = 75.0
_READ_BUFFER = 256 * 1024
_SESSION_CHARS_MAX = 128
_TASK_HEADER = "x-penstock-task-type"

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class StreamReply:
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
            raise CallerGone("The caller hung up.") from error

    async def write(self, data: bytes) -> None:
        """Send bytes; waits while the caller's socket is full. Raises CallerGone."""
        assert self.response is not None, "a stream begins before it is written"
        transport = self._request.transport
        if transport is None:
            raise CallerGone("The caller hung up.")
        try:
            if transport.get_write_buffer_size() + len(data) < _WRITE_BUFFER:
                # Fits below aiohttp's own mark: this write waits for nobody.
                await self.response.write(data)
            else:
                async with asyncio.timeout(STALL_SECONDS):
                    await self.response.write(data)
        except TimeoutError as error:
            self.abort()
            raise CallerGone("The caller did not read its answer.") from error
        except ConnectionError as error:
            raise CallerGone("The caller hung up.") from error

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
            raise CallerGone("The caller did not read its answer.") from error
        except ConnectionError as error:
            raise CallerGone("The caller hung up.") from error
        return response

    def abort(self) -> None:
        """End the connection: after a stream has begun there is no other way to say that it went wrong."""
        if self._request.transport is not None:
            self._request.transport.abort()


class Front:
    """Answers every request on the callers' port."""

    def __init__(
        self,
        *,
        exchange: Exchange,
        world: Callable[[], World],
        admin: Admin,
        body_bytes_max: int,
        calls_max: int,
        count_error: Callable[[str], None],
    ) -> None:
        self._exchange = exchange
        self._world = world
        self._admin = admin
        self._body_bytes_max = body_bytes_max
        self._calls_max = calls_max
        self._count_error = count_error
        self.calls = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The outermost handler: one of two places where any exception is caught."""
        reply = StreamReply(request)
        try:
            if request.path == "/v1/chat/completions":
                return await self._chat(request, reply)
            if request.path == "/v1/models" or request.path.startswith("/v1/models/"):
                return self._models(request)
            found = await self._admin.answer(request)
            if found is not None:
                return found
            raise NotFound(f"There is nothing at {request.method} {request.path[:100]}. See GET /v1/models.")
        except CallerGone:
            # Nobody is there to read this; aiohttp needs some response to end the exchange.
            return _begun(reply) or web.Response(status=CallerGone.status)
        except PenstockError as error:
            self._count_error(error.code)
            return _begun(reply) or _response(chat.failed(error))
        except Exception:
            log.exception("a request failed in an unforeseen way")
            self._count_error(PenstockError.code)
            answer = chat.failed(PenstockError("Something went wrong here; it has been logged."))
            return _begun(reply) or _response(answer)

    async def _chat(self, request: web.BaseRequest, reply: StreamReply) -> web.StreamResponse:
        if request.method != "POST":
            raise MethodNotAllowed(f"{request.method} is not possible here; use POST.")
        world = self._world()
        headers = {name.lower(): value for name, value in request.headers.items()}
        caller = authenticate(headers, world)
        if self.calls >= self._calls_max:
            raise Overloaded("Too many calls are in flight here; try again in a moment.")
        self.calls += 1
        try:
            if "expect" in headers:
                _go_ahead(request, headers["expect"])
            parsed = chat.parse(await self._body(request))
            answer = await self._exchange.serve(parsed, caller, hints_of(headers, world), reply)
        finally:
            self.calls -= 1
        if not answer.streamed:
            return await reply.send(_response(answer))
        assert reply.response is not None
        return await reply.send(reply.response)

    def _models(self, request: web.BaseRequest) -> web.Response:
        if request.method != "GET":
            raise MethodNotAllowed(f"{request.method} is not possible here; use GET.")
        world = self._world()
        authenticate({name.lower(): value for name, value in request.headers.items()}, world)
        name = request.path.removeprefix("/v1/models").strip("/")
        if name and name not in world.routes:
            raise NotFound(f"The model '{name[:100]}' does not exist here.", code="model_not_found", param="model")
        return _response(models.one(name) if name else models.all_of(world.routes))

    async def _body(self, request: web.BaseRequest) -> bytes | bytearray:
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
        body = bytearray(0 if request.headers.get("Content-Encoding") else request.content_length or 0)
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


class _Protocol(RequestHandler):
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
        response = _response(chat.failed(error))
        response.force_close()
        return response


class _LowLevelServer(web.Server):
    def __call__(self) -> RequestHandler:
        return _Protocol(
            self,
            loop=self._loop,
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes None for "no log"
            keepalive_timeout=_KEEPALIVE_SECONDS,
            read_bufsize=_READ_BUFFER,
        )


def runner(handler: Handler, *, drain_seconds: float) -> web.ServerRunner:
    """A server for one handler. `handler_cancellation`: a caller who hangs up cancels the call, whatever it waits for."""
    server = _LowLevelServer(handler, handler_cancellation=True)
    return web.ServerRunner(server, shutdown_timeout=drain_seconds)


def authenticate(headers: Mapping[str, str], world: World) -> Caller:
    """Whose key this is; header names are in lower case. Raises Unauthenticated."""
    given = headers.get("authorization", "")
    scheme, _, token = given.partition(" ")
    secret = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key") or headers.get("api-key") or ""
    if secret and world.callers:
        # Headers are bytes: what is no UTF-8 arrives as lone surrogates and must not break anything.
        caller = world.callers.get(hashlib.sha256(secret.encode(errors="surrogateescape")).digest())
        if caller is not None:
            return caller
    if world.open_caller is not None:
        return world.open_caller
    if not secret:
        raise Unauthenticated("No key was given; send it as 'Authorization: Bearer ...'.", code="missing_api_key")
    raise Unauthenticated("This key is not known here.")


def hints_of(headers: Mapping[str, str], world: World) -> Hints:
    """What headers (names in lower case) say beyond the request itself."""
    session, source = _session_of(headers, world.session_headers)
    return Hints(
        session=session, session_source=source, task_type=headers.get(_TASK_HEADER), forward=forwarded(headers)
    )


def _session_of(headers: Mapping[str, str], names: tuple[str, ...]) -> tuple[str | None, str]:
    for name in names:
        value = headers.get(name)
        if value:
            return _clean(value), name
    return None, ""


def _clean(session: str) -> str:
    """A session id fit for headers, logs and labels."""
    short = session[:_SESSION_CHARS_MAX]
    return short if short.isascii() and short.isprintable() else _fingerprint(session)


def _fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


def _begun(reply: StreamReply) -> web.StreamResponse | None:
    """The stream that had begun when things went wrong, its connection ended; None if nothing was sent yet."""
    if reply.response is not None:
        reply.abort()
    return reply.response


def _go_ahead(request: web.BaseRequest, expectation: str) -> None:
    """`Expect: 100-continue`: the caller waits with its body until it is told to send it."""
    if expectation.lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _response(answer: Answer) -> web.Response:
    response = web.Response(status=answer.status, headers=answer.headers, body=answer.body)
    response.headers["Server"] = "penstock"
    if "x-request-id" not in answer.headers and "x-penstock-request-id" in answer.headers:
        response.headers["x-request-id"] = answer.headers["x-penstock-request-id"]
    return response
