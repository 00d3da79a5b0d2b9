"""The approval page: a stopped session, the reason, and a button that resumes it.

Only POST acts. GET and HEAD show the page to everybody: programs, browsers that prefetch, and the link previews and mail
scanners that open every link. The token in the link is the proof, so that a form of another site cannot post without it.
"""

import html
from urllib.parse import parse_qs

import orjson
from aiohttp import web

from ..values.errors import MethodNotAllowed
from .admin import READ_METHODS, read_body, read_json
from .ports import SessionEndpoints

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="robots" content="noindex"><meta name="viewport" content="width=device-width">
<title>Session {session}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}}
dt{{font-weight:600}}dd{{margin:0 0 .6rem}}button{{font:inherit;padding:.6rem 1.2rem}}textarea{{width:100%;font:inherit}}</style>
<h1>{title}</h1><dl>{facts}</dl>{form}</html>"""
_FORM = """<form method="post"><p><label>Note to the model (optional)<br>
<textarea name="note" rows="3" maxlength="1000"></textarea></label></p><button>Resume session</button></form>"""


async def handle_approval(request: web.BaseRequest, session_admin: SessionEndpoints, token: str) -> web.Response:
    """GET and HEAD show the page, POST resumes the session: a form gets a page, everything else JSON.

    Raises NotFound for an invalid or used link.
    """
    if request.method not in (*READ_METHODS, "POST"):
        message = f"Method not allowed: {request.method}. Use GET to read, POST to resume."
        raise MethodNotAllowed(message, (*READ_METHODS, "POST"))
    await session_admin.ensure_loaded_by_link(token)
    key, session = session_admin.session_of_link(token)
    if request.method != "POST":
        assert session.stop is not None, "a link is for a stop"
        facts = {"Key": key, **session.stop.details}
        return _page(session.id, f"Session {session.id} is stopped", facts, _FORM)
    if "urlencoded" in request.headers.get("Content-Type", ""):
        form = parse_qs((await read_body(request)).decode(errors="replace"))
        resumed = await session_admin.resume_by_link(token, form.get("note", [""])[0])
        facts = {"calls": resumed["calls"], "cost_usd": resumed["cost_usd"]}
        return _page(session.id, f"Session {session.id} resumed", facts, "")
    body = await read_json(request)
    resumed = await session_admin.resume_by_link(token, str(body.get("note", "")))
    return web.Response(body=orjson.dumps(resumed), content_type="application/json")


def _page(session: str, title: str, facts: dict[str, object], form: str) -> web.Response:
    rows = "".join(
        f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts.items()
    )
    text = _PAGE.format(session=html.escape(session), title=html.escape(title), facts=rows, form=form)
    headers = {
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'",
    }
    return web.Response(text=text, content_type="text/html", headers=headers)
