"""The street door for operators: /livez /readyz /metrics /export, /admin/budgets, where more can be granted, and
/admin/sessions, where stopped ones are let go on.

/export and /admin show what teams spent: they are free only where the listening address is this machine's own, else
they want the admin token.
"""

import asyncio
import hmac
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

import orjson
from aiohttp import web

from ..dialects import body as bodies
from ..dialects import openai_errors
from ..values.errors import BadRequest, BodyTooLarge, MethodNotAllowed, NotFound, PenstockError, Unauthenticated
from .ports import BudgetEndpoints, SessionEndpoints

# Query parameters -> (text, content type); raises ValueError with what is wrong about them.
Export = Callable[[Mapping[str, str]], tuple[str, str]]


# A grant is a few words.
_ASKED_BYTES_MAX = 16 * 1024
_ASKED_SECONDS = 10.0


class Admin:
    """Answers operators. `ready` gives the reasons why not; `snapshot` reads the gauges on the event loop, `render`
    the metrics (slow: run in a thread)."""

    def __init__(
        self,
        *,
        ready: Callable[[], list[str]],
        snapshot: Callable[[], None],
        render: Callable[[], tuple[bytes, str]],
        export: Export,
        desk: BudgetEndpoints,
        session_desk: SessionEndpoints,
        events: Callable[[int], list[dict[str, Any]]],
        token: str | None,
        local: bool,
        with_data: bool,
    ) -> None:
        self._ready = ready
        self._snapshot = snapshot
        self._render = render
        self._export_text = export
        self._desk = desk
        self._sessions = session_desk
        self._events = events
        self._token = token
        self._local = local
        self._with_data = with_data

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The whole of an own admin port."""
        try:
            found = await self.answer(request)
        except PenstockError as error:
            found = self._failed(error)
        return found if found is not None else web.Response(status=404, text="not found\n")

    async def answer(self, request: web.BaseRequest) -> web.Response | None:
        """The answer if the path is an operator's, else None. Raises CallerError."""
        path = request.path
        if path == "/livez":
            return web.Response(text="ok\n")
        if path in ("/readyz", "/healthz"):
            reasons = self._ready()
            return web.Response(status=503 if reasons else 200, text="\n".join(reasons or ["ready"]) + "\n")
        if not self._with_data:
            return None
        if path == "/admin/sessions" or path.startswith("/admin/sessions/"):
            return await self._session(request)
        if path == "/admin/budgets" or path.startswith("/admin/budgets/"):
            return await self._budgets(request)
        if path not in ("/metrics", "/export"):
            return None
        if request.method != "GET":
            raise MethodNotAllowed(f"{request.method} is not possible here; use GET.")
        if path == "/metrics":
            self._snapshot()
            body, content_type = await asyncio.to_thread(self._render)
            return web.Response(body=body, headers={"Content-Type": content_type})
        return await self._export(request)

    async def _budgets(self, request: web.BaseRequest) -> web.Response:
        """GET /admin/budgets, GET /admin/budgets/events?since=MS, POST /admin/budgets/NAME/grants."""
        self._admit(request)
        parts = request.path.removeprefix("/admin/budgets").strip("/").split("/")
        if request.method == "GET" and parts == [""]:
            return _json(await self._desk.named())
        if request.method == "GET" and parts == ["events"]:
            since = request.query.get("since", "0")
            if not since.isdecimal() or len(since) > 15:
                raise BadRequest("'since' must be milliseconds since the epoch.", param="since")
            return _json({"object": "list", "data": await asyncio.to_thread(self._events, int(since))})
        if request.method == "POST" and len(parts) == 2 and parts[1] == "grants":
            self._insist()
            return _json(await self._desk.grant(parts[0], await asked_of(request), who="admin"))
        raise NotFound("See GET /admin/budgets, GET /admin/budgets/events, POST /admin/budgets/NAME/grants.")

    async def _session(self, request: web.BaseRequest) -> web.Response:
        """GET /admin/sessions[?stopped=true], GET /admin/sessions/ID, POST /admin/sessions/ID/ACTION with resume, exempt,
        kill or label; `?key=` where several keys have a session of that name."""
        self._admit(request)
        name, action = _parts(request)
        key = request.query.get("key")
        if name:
            await self._sessions.reached(name, key)
        if request.method == "GET" and not action:
            if name:
                return _json(self._sessions.shown(name, key))
            return _json(self._sessions.listed(stopped=request.query.get("stopped") == "true"))
        if request.method == "POST" and name and action in ("resume", "exempt", "kill", "label"):
            self._insist()
            told = await self._acted(name, key, action, await asked_of(request))
            await self._sessions.known()
            return _json(told)
        raise NotFound(
            "See GET /admin/sessions, GET /admin/sessions/ID, POST /admin/sessions/ID/resume|exempt|kill|label."
        )

    async def _acted(self, name: str, key: str | None, action: str, asked: dict[str, Any]) -> dict[str, Any]:
        if action == "resume":
            return await self._sessions.resumed(name, key, asked, who="admin")
        if action == "exempt":
            return self._sessions.exempted(name, key, who="admin")
        if action == "kill":
            return self._sessions.killed(name, key, asked, who="admin")
        return self._sessions.labelled(name, key, asked, who="admin")

    def _insist(self) -> None:
        """Whoever is on this machine may read; the agents that budgets and stops are for are on it, too."""
        if self._token is None:
            raise Unauthenticated("Set PENSTOCK_ADMIN_TOKEN for this: it is not free to everybody on this machine.")

    async def _export(self, request: web.BaseRequest) -> web.Response:
        self._admit(request)
        try:
            text, content_type = await asyncio.to_thread(self._export_text, dict(request.query))
        except ValueError as error:
            raise BadRequest(f"This cannot be exported: {error}.") from error
        return web.Response(text=text, headers={"Content-Type": content_type})

    def _admit(self, request: web.BaseRequest) -> None:
        if self._token is None:
            if self._local:
                return
            raise Unauthenticated("Set PENSTOCK_ADMIN_TOKEN to read /export from beyond this machine.")
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), self._token.encode()):
            raise Unauthenticated("The admin token is needed here.")

    def _failed(self, error: PenstockError) -> web.Response:
        answer = openai_errors.failed(error)
        return web.Response(status=answer.status, headers=dict(answer.headers), body=answer.body)


def _json(document: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(document), content_type="application/json")


async def asked_of(request: web.BaseRequest) -> dict[str, Any]:
    """The JSON object that was sent ({} for nothing), bounded in size and time. Raises BadRequest."""
    body = await sent(request)
    return bodies.whole(body) if body.strip() else {}


async def sent(request: web.BaseRequest) -> bytes:
    """What was sent, bounded in size and time. Raises BadRequest."""
    body = b""
    try:
        async with asyncio.timeout(_ASKED_SECONDS):
            while piece := await request.content.readany():
                body += piece
                if len(body) > _ASKED_BYTES_MAX:
                    raise BodyTooLarge(f"The body is larger than {_ASKED_BYTES_MAX} bytes.")
    except TimeoutError as error:
        raise BadRequest("The body did not arrive in time.") from error
    return body


def _parts(request: web.BaseRequest) -> tuple[str, str]:
    """(session, action) of a path below /admin/sessions; a session's name may hold slashes."""
    below = unquote(request.rel_url.raw_path.removeprefix("/admin/sessions")).strip("/")
    name, slash, action = below.rpartition("/")
    if request.method == "GET" or not slash:
        return below, ""
    return name, action
