"""Operator endpoints: health, /metrics, /export, /admin/budgets, /admin/sessions.

/export and /admin show what teams spent: without an admin token they are served on a loopback address only.
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
from ..values.errors import BadRequest, MethodNotAllowed, NotFound, PenstockError, Unauthenticated
from . import request_body
from .ports import BudgetEndpoints, SessionEndpoints
from .request_headers import collect_headers

# Query parameters -> (text, content type); raises ValueError for parameters that are not valid.
ExportFunction = Callable[[Mapping[str, str]], tuple[str, str]]

# Bodies here are short: a grant, a note, a label.
_BODY_BYTES_MAX = 16 * 1024
_BODY_SECONDS = 10.0
READ_METHODS = ("GET", "HEAD")
# Headers of every response on every port.
SERVER_HEADERS: Mapping[str, str] = {"Server": "penstock"}


class AdminApi:
    """Serves the operator endpoints.

    not_ready_reasons: reasons why the gateway is not ready, empty when it is.
    refresh_metrics: reads the metric families; called on the event loop.
    render_metrics: metrics as (body, content type); slow, called in a thread.
    export: the /export text.
    audit_events: budget audit events since a time in ms since the epoch.
    token: admin token, None if none is set.
    is_loopback: whether the listening address is a loopback address.
    serves_data: whether to serve anything beyond liveness and readiness.
    """

    def __init__(  # noqa: PLR0913 - wired once, in app.py
        self,
        *,
        not_ready_reasons: Callable[[], list[str]],
        refresh_metrics: Callable[[], None],
        render_metrics: Callable[[], tuple[bytes, str]],
        export: ExportFunction,
        budget_admin: BudgetEndpoints,
        session_admin: SessionEndpoints,
        audit_events: Callable[[int], list[dict[str, Any]]],
        token: str | None,
        is_loopback: bool,
        serves_data: bool,
    ) -> None:
        self._not_ready_reasons = not_ready_reasons
        self._refresh_metrics = refresh_metrics
        self._render_metrics = render_metrics
        self._export_text = export
        self._budget_admin = budget_admin
        self._session_admin = session_admin
        self._audit_events = audit_events
        self._token = token
        self._is_loopback = is_loopback
        self._serves_data = serves_data

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Handles every request on a separate admin port."""
        try:
            response = await self.dispatch(request)
        except PenstockError as error:
            response = self._error_response(error)
        response = response if response is not None else web.Response(status=404, text="not found\n")
        response.headers.update(SERVER_HEADERS)
        return response

    async def dispatch(self, request: web.BaseRequest) -> web.Response | None:
        """Returns the response, None for other paths. Raises CallerError."""
        path = request.path
        if path in ("/livez", "/readyz", "/healthz"):
            _require_method(request)
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
        _require_method(request)
        if path == "/metrics":
            self._refresh_metrics()
            body, content_type = await asyncio.to_thread(self._render_metrics)
            return web.Response(body=body, headers={"Content-Type": content_type})
        return await self._handle_export(request)

    async def _handle_budgets(self, request: web.BaseRequest) -> web.Response:
        """Handles /admin/budgets.

        GET /admin/budgets, GET /admin/budgets/events?since=MS, POST /admin/budgets/NAME/grants.
        """
        self._authorize(request)
        parts = request.path.removeprefix("/admin/budgets").strip("/").split("/")
        if request.method in READ_METHODS and parts == [""]:
            return _json_response(await self._budget_admin.list_budgets())
        if request.method in READ_METHODS and parts == ["events"]:
            since = request.query.get("since", "0")
            if not since.isdecimal() or len(since) > 15:
                raise BadRequest("'since' must be milliseconds since the epoch.", param="since")
            return _json_response({"object": "list", "data": await asyncio.to_thread(self._audit_events, int(since))})
        if request.method == "POST" and len(parts) == 2 and parts[1] == "grants":
            self._require_token()
            return _json_response(await self._budget_admin.grant(parts[0], await read_json(request), actor="admin"))
        raise NotFound(
            f"No such endpoint: {request.method} {request.path[:100]}. "
            "See GET /admin/budgets, GET /admin/budgets/events, POST /admin/budgets/NAME/grants."
        )

    async def _handle_sessions(self, request: web.BaseRequest) -> web.Response:
        """Handles /admin/sessions.

        GET /admin/sessions[?stopped=true], GET /admin/sessions/ID, POST /admin/sessions/ID/ACTION.

        ACTION is resume, exempt, kill or label; `?key=` selects a key where several have a session of that name.
        """
        self._authorize(request)
        name, action = _session_and_action(request)
        key = request.query.get("key")
        if name:
            await self._session_admin.ensure_loaded(name, key)
        if request.method in READ_METHODS and not action:
            if name:
                return _json_response(self._session_admin.get(name, key))
            return _json_response(self._session_admin.list_sessions(stopped=request.query.get("stopped") == "true"))
        if request.method == "POST" and name and action in ("resume", "exempt", "kill", "label"):
            self._require_token()
            document = await self._apply_action(name, key, action, await read_json(request))
            await self._session_admin.flush()
            return _json_response(document)
        raise NotFound(
            f"No such endpoint: {request.method} {request.path[:100]}. "
            "See GET /admin/sessions, GET /admin/sessions/ID, POST /admin/sessions/ID/resume|exempt|kill|label."
        )

    async def _apply_action(self, name: str, key: str | None, action: str, body: dict[str, Any]) -> dict[str, Any]:
        if action == "resume":
            return await self._session_admin.resume(name, key, body, actor="admin")
        if action == "exempt":
            return self._session_admin.exempt(name, key, actor="admin")
        if action == "kill":
            return self._session_admin.kill(name, key, body, actor="admin")
        return self._session_admin.label(name, key, body, actor="admin")

    def _require_token(self) -> None:
        """Raises Unauthenticated if no admin token is set.

        Changes need a token even on loopback: the agents that budgets limit may run on the same machine.
        """
        if self._token is None:
            raise Unauthenticated("Changes disabled: this gateway was started without PENSTOCK_ADMIN_TOKEN.")

    async def _handle_export(self, request: web.BaseRequest) -> web.Response:
        self._authorize(request)
        try:
            text, content_type = await asyncio.to_thread(self._export_text, dict(request.query))
        except ValueError as error:
            raise BadRequest(f"Invalid export query: {error}.") from error
        return web.Response(text=text, headers={"Content-Type": content_type})

    def _authorize(self, request: web.BaseRequest) -> None:
        if self._token is None:
            if self._is_loopback:
                return
            raise Unauthenticated("Admin token required from other machines: set PENSTOCK_ADMIN_TOKEN.")
        token = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if not hmac.compare_digest(token.encode(errors="surrogateescape"), self._token.encode()):
            raise Unauthenticated("Invalid admin token." if token else "Missing admin token.")

    def _error_response(self, error: PenstockError) -> web.Response:
        response = openai_errors.error_response(error)
        return web.Response(status=response.status, headers=dict(response.headers), body=response.body)


def _json_response(document: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(document), content_type="application/json")


async def read_json(request: web.BaseRequest) -> dict[str, Any]:
    """Returns the JSON object of the body, {} if empty. Raises BadRequest."""
    body = await read_body(request)
    return bodies.parse_document(body) if body.strip() else {}


async def read_body(request: web.BaseRequest) -> bytes:
    """Returns the body, bounded in size and time. Raises CallerError."""
    headers = collect_headers(request.headers)
    return bytes(await request_body.read_body(request, headers, bytes_max=_BODY_BYTES_MAX, seconds_max=_BODY_SECONDS))


def _require_method(request: web.BaseRequest) -> None:
    """Raises MethodNotAllowed for a request that does not read."""
    if request.method not in READ_METHODS:
        message = f"Method not allowed: {request.method} {request.path[:100]}. Use GET."
        raise MethodNotAllowed(message, READ_METHODS)


def _session_and_action(request: web.BaseRequest) -> tuple[str, str]:
    """Returns (session, action) of a path below /admin/sessions.

    A session's name may contain slashes.
    """
    path = unquote(request.rel_url.raw_path.removeprefix("/admin/sessions")).strip("/")
    name, slash, action = path.rpartition("/")
    if request.method in READ_METHODS or not slash:
        return path, ""
    return name, action
