"""`penstock sessions`: what runs, what was stopped and why; let it go on, leave it alone, end it, label it.

Asks a running gateway over its admin API.
"""

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
_ACTIONS = {
    "list": "every session that the gateway remembers, the latest first",
    "show": "one session, with its evidence",
    "resume": "let a stopped session go on",
    "exempt": "let the loop guard leave a session alone; caps and budgets still hold",
    "kill": "never serve a session again",
    "label": "say whether a session was healthy or a loop, so that false stops can be counted",
}
# What may be added to a run's own caps when it is resumed.
_CAP_UNITS = ("usd", "calls", "tokens", "wh", "minutes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One word says what is done; the session's id follows it."""
    parser.add_argument(
        "--url", default=os.environ.get("PENSTOCK_URL", "http://127.0.0.1:8080"), help="where the gateway is"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in _ACTIONS.items():
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        action.add_argument("--json", action="store_true", help="print what the gateway says as JSON")
        if name == "list":
            action.add_argument("--stopped", action="store_true", help="only those that are not served")
            continue
        action.add_argument("id", help="the session")
        action.add_argument("--key", help="the key that it belongs to, where several have one of that name")
        if name == "label":
            action.add_argument("label", choices=("healthy", "loop"))
        if name in ("resume", "kill"):
            action.add_argument("--note", default="", help="what the model will see" if name == "resume" else "why")
        if name == "resume":
            for unit in _CAP_UNITS:
                action.add_argument(f"--{unit}", type=float, metavar="MORE", help=f"raise the run's own cap in {unit}")


def run(chosen: argparse.Namespace) -> int:
    """Ask the gateway and print what it says."""
    try:
        told = _call_admin_api(chosen)
    except urllib.error.HTTPError as error:
        print(f"penstock: {_error_message(error)}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"penstock: no gateway at {chosen.url}: {error}", file=sys.stderr)
        return 1
    if chosen.json:
        print(json.dumps(told, indent=2))
    elif chosen.action == "list":
        _print_list(told["data"], told["total"])
    else:
        _print_one(told)
    return 0


def _call_admin_api(chosen: argparse.Namespace) -> Any:
    path = "/admin/sessions"
    query = {"stopped": "true"} if chosen.action == "list" and chosen.stopped else {}
    body = None
    if chosen.action != "list":
        path += f"/{quote(chosen.id, safe='')}"
        query = {"key": chosen.key} if chosen.key else {}
    if chosen.action in ("resume", "exempt", "kill", "label"):
        path += f"/{chosen.action}"
        body = json.dumps(_request_body(chosen)).encode()
    headers = {"Content-Type": "application/json"}
    token = os.environ.get("PENSTOCK_ADMIN_TOKEN")
    if token:
        headers["Authorization"] = f"Bearer {token}"
    url = chosen.url.rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ValueError("an address begins with http:// or https://")
    request = urllib.request.Request(f"{url}{path}?{urlencode(query)}" if query else f"{url}{path}", body, headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
        return json.load(answer)


def _request_body(chosen: argparse.Namespace) -> dict[str, Any]:
    if chosen.action == "label":
        return {"label": chosen.label}
    body: dict[str, Any] = {"note": chosen.note} if chosen.action in ("resume", "kill") else {}
    if chosen.action == "resume":
        more = {unit: getattr(chosen, unit) for unit in _CAP_UNITS if getattr(chosen, unit) is not None}
        body |= {"budget": more} if more else {}
    return body


def _error_message(error: urllib.error.HTTPError) -> str:
    try:
        message: str = json.load(error)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"the gateway answered {error.code}"
    return message


def _print_list(sessions: list[dict[str, Any]], total: int) -> None:
    print(f"{'SESSION':<36} {'KEY':<16} {'STATUS':<9} {'CALLS':>6} {'USD':>10}  {'SCORE':>5}  LOOP")
    for one in sessions:
        loop = one["loop"] or {}
        what = f"{loop['tool']} x{loop['count']}" if loop.get("tool") else ""
        score = f"{loop['score']:.1f}" if loop else ""
        print(
            f"{one['id'][:36]:<36} {one['key'][:16]:<16} {one['status']:<9} {one['calls']:>6} {one['cost_usd']:>10.4f}"
            f"  {score:>5}  {what}{' (exempt)' if one['exempt'] else ''}"
        )
    if total > len(sessions):
        print(f"... and {total - len(sessions)} more")


def _print_one(one: dict[str, Any]) -> None:
    started = datetime.fromtimestamp(one["started_at"], UTC).isoformat(timespec="seconds")
    rows = [
        ("session", one["id"]), ("key", one["key"]), ("status", one["status"]), ("started", started),
        ("root", one["root"]), ("parent", one["parent"]), ("sub-agents", one["children"]), ("calls", one["calls"]),
        ("cost", f"{one['cost_usd']:.6f} USD"), ("steps taken", ", ".join(one["steps"])), ("label", one["label"]),
        ("exempt", "yes" if one["exempt"] else ""),
    ]  # fmt: skip
    rows += [(f"cap {name}", value) for name, value in one["caps"].items()]
    grams = one["footprint"]["g_co2e"]
    rows.append(("carbon", f"{grams['mid']:.4g} g CO2e ({grams['low']:.4g} to {grams['high']:.4g})"))
    stop = one.get("stop")
    if stop is not None:
        rows += [("stopped", stop["code"]), ("asked since", stop["hammered"])]
        rows += [(f"  {name}", value) for name, value in stop["evidence"].items() if name != "session"]
    elif one["loop"]:
        rows += [(f"loop {name}", value) for name, value in one["loop"].items()]
    for name, value in rows:
        if value not in (None, ""):
            print(f"{name:<16} {value}")
