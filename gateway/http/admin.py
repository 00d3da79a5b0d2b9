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
ExportFunction = Callable[[Mapping[str, str]], tuple[str, str]]


# A grant is a few words.
_BODY_BYTES_MAX = 16 * 1024
_BODY_SECONDS = 10.0


class AdminApi:
    """Answers operators. `ready` gives the reasons why not; `snapshot` reads the gauges on the event loop, `render`
    the metrics (slow: run in a thread)."""

    def __init__(
        self,
        *,
        ready: Callable[[], list[str]],
        snapshot: Callable[[], None],
        render: Callable[[], tuple[bytes, str]],
        export: ExportFunction,
        budget_admin: BudgetEndpoints,
        session_admin: SessionEndpoints,
        events: Callable[[int], list[dict[str, Any]]],
        token: str | None,
        local: bool,
        with_data: bool,
    ) -> None:
        self._not_ready_reasons = ready
        self._refresh_gauges = snapshot
        self._render_metrics = render
        self._export_text = export
        self._budget_admin = budget_admin
        self._session_admin = session_admin
        self._audit_events = events
        self._token = token
        self._is_loopback = local
        self._serves_data = with_data

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The whole of an own admin port."""
        try:
            found = await self.dispatch(request)
        except PenstockError as error:
            found = self._error_response(error)
        return found if found is not None else web.Response(status=404, text="not found\n")

    async def dispatch(self, request: web.BaseRequest) -> web.Response | None:
        """The answer if the path is an operator's, else None. Raises CallerError."""
        path = request.path
        if path == "/livez":
            return web.Response(text="ok\n")
        if path in ("/readyz", "/healthz"):
            reasons = self._not_ready_reasons()
            return web.Response(status=503 if reasons else 200, text="\n".join(reasons or ["ready"]) + "\n")
        if not self._serves_data:
            return None
        if path == "/admin/sessions" or path.startswith("/admin/sessions/"):
            return await self._handle_sessions(request)
        if path == "/admin/budgets" or path.startswith("/admin/budgets/"):
            return await self._handle_budgets(request)
        if path not in ("/metrics", "/export"):
            return None
        if request.method != "GET":
            raise MethodNotAllowed(f"{request.method} is not possible here; use GET.")
        if path == "/metrics":
            self._refresh_gauges()
            body, content_type = await asyncio.to_thread(self._render_metrics)
            return web.Response(body=body, headers={"Content-Type": content_type})
        return await self._handle_export(request)

    async def _handle_budgets(self, request: web.BaseRequest) -> web.Response:
        """GET /admin/budgets, GET /admin/budgets/events?since=MS, POST /admin/budgets/NAME/grants."""
        self._authorize(request)
        parts = request.path.removeprefix("/admin/budgets").strip("/").split("/")
        if request.method == "GET" and parts == [""]:
            return _json_response(await self._budget_admin.list_budgets())
        if request.method == "GET" and parts == ["events"]:
            since = request.query.get("since", "0")
            if not since.isdecimal() or len(since) > 15:
                raise BadRequest("'since' must be milliseconds since the epoch.", param="since")
            return _json_response({"object": "list", "data": await asyncio.to_thread(self._audit_events, int(since))})
        if request.method == "POST" and len(parts) == 2 and parts[1] == "grants":
            self._require_token()
            return _json_response(await self._budget_admin.grant(parts[0], await read_json(request), who="admin"))
        raise NotFound("See GET /admin/budgets, GET /admin/budgets/events, POST /admin/budgets/NAME/grants.")

    async def _handle_sessions(self, request: web.BaseRequest) -> web.Response:
        """GET /admin/sessions[?stopped=true], GET /admin/sessions/ID, POST /admin/sessions/ID/ACTION with resume, exempt,
        kill or label; `?key=` where several keys have a session of that name."""
        self._authorize(request)
        name, action = _session_and_action(request)
        key = request.query.get("key")
        if name:
            await self._session_admin.ensure_loaded(name, key)
        if request.method == "GET" and not action:
            if name:
                return _json_response(self._session_admin.get(name, key))
            return _json_response(self._session_admin.list_sessions(stopped=request.query.get("stopped") == "true"))
        if request.method == "POST" and name and action in ("resume", "exempt", "kill", "label"):
            self._require_token()
            told = await self._apply_action(name, key, action, await read_json(request))
            await self._session_admin.flush()
            return _json_response(told)
        raise NotFound(
            "See GET /admin/sessions, GET /admin/sessions/ID, POST /admin/sessions/ID/resume|exempt|kill|label."
        )

    async def _apply_action(self, name: str, key: str | None, action: str, asked: dict[str, Any]) -> dict[str, Any]:
        if action == "resume":
            return await self._session_admin.resume(name, key, asked, who="admin")
        if action == "exempt":
            return self._session_admin.exempt(name, key, who="admin")
        if action == "kill":
            return self._session_admin.kill(name, key, asked, who="admin")
        return self._session_admin.label(name, key, asked, who="admin")

    def _require_token(self) -> None:
        """Whoever is on this machine may read; the agents that budgets and stops are for are on it, too."""
        if self._token is None:
            raise Unauthenticated("Set PENSTOCK_ADMIN_TOKEN for this: it is not free to everybody on this machine.")

    async def _handle_export(self, request: web.BaseRequest) -> web.Response:
        self._authorize(request)
        try:
            text, content_type = await asyncio.to_thread(self._export_text, dict(request.query))
        except ValueError as error:
            raise BadRequest(f"This cannot be exported: {error}.") from error
        return web.Response(text=text, headers={"Content-Type": content_type})

    def _authorize(self, request: web.BaseRequest) -> None:
        if self._token is None:
            if self._is_loopback:
                return
            raise Unauthenticated("Set PENSTOCK_ADMIN_TOKEN to read /export from beyond this machine.")
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), self._token.encode()):
            raise Unauthenticated("The admin token is needed here.")

    def _error_response(self, error: PenstockError) -> web.Response:
        answer = openai_errors.error_answer(error)
        return web.Response(status=answer.status, headers=dict(answer.headers), body=answer.body)


def _json_response(document: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(document), content_type="application/json")


async def read_json(request: web.BaseRequest) -> dict[str, Any]:
    """The JSON object that was sent ({} for nothing), bounded in size and time. Raises BadRequest."""
    body = await read_body(request)
    return bodies.parse_document(body) if body.strip() else {}


async def read_body(request: web.BaseRequest) -> bytes:
    """What was sent, bounded in size and time. Raises BadRequest."""
    body = b""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while piece := await request.content.readany():
                body += piece
                if len(body) > _BODY_BYTES_MAX:
                    raise BodyTooLarge(f"The body is larger than {_BODY_BYTES_MAX} bytes.")
    except TimeoutError as error:
        raise BadRequest("The body did not arrive in time.") from error
    return body


def _session_and_action(request: web.BaseRequest) -> tuple[str, str]:
    """(session, action) of a path below /admin/sessions; a session's name may hold slashes."""
    below = unquote(request.rel_url.raw_path.removeprefix("/admin/sessions")).strip("/")
    name, slash, action = below.rpartition("/")
    if request.method == "GET" or not slash:
        return below, ""
    return name, action
