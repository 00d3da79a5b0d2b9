"""The street door for operators: /livez /readyz /metrics /export. Read-only.

/export shows what teams spent: it is free only where the listening address is this machine's own, else it wants the
admin token.
"""

import asyncio
import hmac
from collections.abc import Callable, Mapping

from aiohttp import web

from ..errors import BadRequest, CallerError, MethodNotAllowed, PenstockError, Unauthenticated
from ..wire import openai_errors

# Query parameters -> (text, content type); raises ValueError with what is wrong about them.
Export = Callable[[Mapping[str, str]], tuple[str, str]]


class Admin:
    """Answers operators. `ready` gives the reasons why not; `render` the metrics (slow: run in a thread)."""

    def __init__(
        self,
        *,
        ready: Callable[[], list[str]],
        render: Callable[[], tuple[bytes, str]],
        export: Export,
        token: str | None,
        local: bool,
        with_data: bool,
    ) -> None:
        self._ready = ready
        self._render = render
        self._export_text = export
        self._token = token
        self._local = local
        self._with_data = with_data

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The whole of an own admin port."""
        try:
            found = await self.answer(request)
        except CallerError as error:
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
        if not self._with_data or path not in ("/metrics", "/export"):
            return None
        if request.method != "GET":
            raise MethodNotAllowed(f"{request.method} is not possible here; use GET.")
        if path == "/metrics":
            body, content_type = await asyncio.to_thread(self._render)
            return web.Response(body=body, headers={"Content-Type": content_type})
        return await self._export(request)

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
