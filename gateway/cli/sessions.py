"""`penstock sessions`: list, show, resume, exempt, kill and label sessions, over the admin API of a running gateway."""

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

_TIMEOUT_SECONDS = 15.0
_URL_DEFAULT = "http://127.0.0.1:8080"
_ACTIONS = {
    "list": "List the sessions in the gateway's memory, newest first",
    "show": "Show one session with the evidence of the loop guard",
    "resume": "Resume a stopped session",
    "exempt": "Exempt a session from the loop guard; caps and budgets still apply",
    "kill": "Refuse all further requests of a session",
    "label": "Label a session as healthy or as a loop, to count false stops",
}
# Units of a session's own caps, which `resume` can raise.
_CAP_UNITS = ("usd", "calls", "tokens", "wh", "minutes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subcommand for each action."""
    parser.epilog = "PENSTOCK_ADMIN_TOKEN is sent as bearer token; the gateway requires it for every change."
    parser.add_argument(
        "--url",
        default=os.environ.get("PENSTOCK_URL", _URL_DEFAULT),
        help=f"URL of the gateway or of its admin port (default: PENSTOCK_URL, else {_URL_DEFAULT})",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in _ACTIONS.items():
        action = actions.add_parser(name, help=summary, description=f"{summary}.")
        action.add_argument("--json", action="store_true", help="print the response as JSON")
        if name == "list":
            action.add_argument("--stopped", action="store_true", help="only stopped sessions")
            continue
        action.add_argument("id", metavar="ID", help="id of the session")
        action.add_argument("--key", metavar="ID", help="key of the session, if several keys have a session of that id")
        if name == "label":
            action.add_argument("label", choices=("healthy", "loop"), help="what the session was")
        if name in ("resume", "kill"):
            note_help = "text that the model sees once" if name == "resume" else "reason, for the audit"
            action.add_argument("--note", default="", metavar="TEXT", help=note_help)
        if name == "resume":
            for unit in _CAP_UNITS:
                action.add_argument(
                    f"--{unit}", type=float, metavar="MORE", help=f"raise the cap in {unit} by this much"
                )


def run(args: argparse.Namespace) -> int:
    """Call the gateway and print its response; 1 if it refuses or cannot be reached."""
    try:
        response = _call_admin_api(args)
    except urllib.error.HTTPError as error:
        print(f"penstock: {_error_message(error)}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"penstock: cannot reach a gateway at {args.url}: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(response, indent=2))
    elif args.action == "list":
        _print_list(response["data"], response["total"])
    else:
        _print_session(response)
    return 0


def _call_admin_api(args: argparse.Namespace) -> Any:
    path = "/admin/sessions"
    query = {"stopped": "true"} if args.action == "list" and args.stopped else {}
    body = None
    if args.action != "list":
        path += f"/{quote(args.id, safe='')}"
        query = {"key": args.key} if args.key else {}
    if args.action in ("resume", "exempt", "kill", "label"):
        path += f"/{args.action}"
        body = json.dumps(_request_body(args)).encode()
    headers = {"Content-Type": "application/json"}
    token = os.environ.get("PENSTOCK_ADMIN_TOKEN")
    if token:
        headers["Authorization"] = f"Bearer {token}"
    url = args.url.rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ValueError("URL must begin with http:// or https://")
    request = urllib.request.Request(f"{url}{path}?{urlencode(query)}" if query else f"{url}{path}", body, headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
        return json.load(response)


def _request_body(args: argparse.Namespace) -> dict[str, Any]:
    if args.action == "label":
        return {"label": args.label}
    body: dict[str, Any] = {"note": args.note} if args.action in ("resume", "kill") else {}
    if args.action == "resume":
        increases = {unit: getattr(args, unit) for unit in _CAP_UNITS if getattr(args, unit) is not None}
        body |= {"budget": increases} if increases else {}
    return body


def _error_message(error: urllib.error.HTTPError) -> str:
    try:
        message: str = json.load(error)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"the gateway responded with status {error.code}"
    return message


def _print_list(sessions: list[dict[str, Any]], total: int) -> None:
    print(f"{'SESSION':<36} {'KEY':<16} {'STATUS':<9} {'CALLS':>6} {'USD':>10}  {'SCORE':>5}  LOOP")
    for session in sessions:
        loop = session["loop"] or {}
        repeated = f"{loop['tool']} x{loop['count']}" if loop.get("tool") else ""
        score = f"{loop['score']:.1f}" if loop else ""
        print(
            f"{session['id'][:36]:<36} {session['key'][:16]:<16} {session['status']:<9} {session['calls']:>6}"
            f" {session['cost_usd']:>10.4f}  {score:>5}  {repeated}{' (exempt)' if session['exempt'] else ''}"
        )
    if total > len(sessions):
        print(f"... and {total - len(sessions)} more")


def _print_session(session: dict[str, Any]) -> None:
    started = datetime.fromtimestamp(session["started_at"], UTC).isoformat(timespec="seconds")
    rows = [
        ("session", session["id"]), ("key", session["key"]), ("status", session["status"]), ("started", started),
        ("root", session["root"]), ("parent", session["parent"]), ("sub-agents", session["children"]), ("calls", session["calls"]),
        ("cost", f"{session['cost_usd']:.6f} USD"), ("ladder steps", ", ".join(session["ladder_steps"])), ("label", session["label"]),
        ("exempt", "yes" if session["exempt"] else ""),
    ]  # fmt: skip
    rows += [(f"cap {name}", value) for name, value in session["caps"].items()]
    grams = session["footprint"]["g_co2e"]
    rows.append(("carbon", f"{grams['mid']:.4g} g CO2e ({grams['low']:.4g} to {grams['high']:.4g})"))
    stop = session.get("stop")
    if stop is not None:
        rows += [("stopped", stop["code"]), ("refused requests", stop["requests_refused"])]
        rows += [(f"  {name}", value) for name, value in stop["evidence"].items() if name != "session"]
    elif session["loop"]:
        rows += [(f"loop {name}", value) for name, value in session["loop"].items()]
    for name, value in rows:
        if value not in (None, ""):
            print(f"{name:<16} {value}")
