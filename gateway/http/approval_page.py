"""What a person sees who follows an approval link: which session, why it was stopped, and a button.

Programs that follow it (curl, a script) let the session go on at once. Browsers are shown the page first, and previews
of chat programs, which open every link that is posted, are only ever shown the page.
"""

import html
from urllib.parse import parse_qs

import orjson
from aiohttp import web

from ..values.errors import MethodNotAllowed
from .admin import read_body, read_json
from .ports import SessionEndpoints

# Words in the User-Agent of what opens links unasked.
_LINK_PREVIEW_AGENTS = (
    "bot",
    "preview",
    "unfurl",
    "facebookexternalhit",
    "whatsapp",
    "slack",
    "teams",
    "discord",
    "crawler",
    "spider",
)
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="robots" content="noindex"><meta name="viewport" content="width=device-width">
<title>Session {session}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}}
dt{{font-weight:600}}dd{{margin:0 0 .6rem}}button{{font:inherit;padding:.6rem 1.2rem}}textarea{{width:100%;font:inherit}}</style>
<h1>{title}</h1><dl>{facts}</dl>{form}</html>"""
_FORM = """<form method="post"><p><label>A note that the model will see (optional)<br>
<textarea name="note" rows="3" maxlength="1000"></textarea></label></p><button>Let it go on</button></form>"""


async def handle_approval(request: web.BaseRequest, budget_admin: SessionEndpoints, token: str) -> web.Response:
    """GET shows or approves, POST approves. Raises NotFound for a link that is not valid any more."""
    await budget_admin.ensure_loaded_by_link(token)
    key, session = budget_admin.session_of_link(token)
    accepts = request.headers.get("Accept", "")
    agent = request.headers.get("User-Agent", "").lower()
    if request.method == "HEAD" or (
        request.method == "GET" and ("text/html" in accepts or any(one in agent for one in _LINK_PREVIEW_AGENTS))
    ):
        assert session.stop is not None, "a link is for a stop"
        features = {"Key": key, **session.stop.details}
        return _page(session.id, f"Session {session.id} was stopped", features, _FORM)
    if request.method not in ("GET", "POST"):
        raise MethodNotAllowed("Follow the link, or POST to it.")
    if request.method == "POST" and "urlencoded" in request.headers.get("Content-Type", ""):
        form = parse_qs((await read_body(request)).decode(errors="replace"))
        told = await budget_admin.resume_by_link(token, form.get("note", [""])[0])
        return _page(
            session.id, f"Session {session.id} may go on", {"calls": told["calls"], "cost_usd": told["cost_usd"]}, ""
        )
    asked = await read_json(request) if request.method == "POST" else {}
    told = await budget_admin.resume_by_link(token, str(asked.get("note", "")))
    return web.Response(body=orjson.dumps(told), content_type="application/json")


def _page(session: str, title: str, features: dict[str, object], form: str) -> web.Response:
    listed = "".join(
        f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(str(value))}</dd>" for name, value in features.items()
    )
    text = _PAGE.format(session=html.escape(session), title=html.escape(title), facts=listed, form=form)
    headers = {
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
    }
    return web.Response(text=text, content_type="text/html", headers=headers)
