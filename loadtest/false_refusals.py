"""Counts false refusals: recorded sessions behind budgets that their true cost fits.

    python loadtest/false_refusals.py FOLDER [--factor 1.3] [--safety 1.5] [--max-tokens N] [--json OUT]

Two rows have a budget of 1.3 times the session's true cost, under both kinds of hold. Two rows have the shipped
config/routing.yaml with its budgets and session caps, all unspent: the session's calls one after the other, and eight
at a time, none of which is answered before all eight were admitted or refused (the loop guard only observes). No call
sets max_tokens (most agents do not) unless --max-tokens is given; the model allows 128,000 tokens of output.
True usage is counted with the o200k_base vocabulary, and the provider reads repeated prefixes from its prompt cache
(OpenAI's rules: from 1,024 tokens, in steps of 128). Pipeline, budgets and pricing are the real ones, only the network
is faked. Half of the sessions stream. Reported: sessions refused although their cost fits, and the largest overspend
of a budget, next to the documented bound.
"""

import argparse
import asyncio
import json
import random
import sys
from pathlib import Path
from typing import Any

import orjson
from session_runs import HoldOutcomes, SessionRun, upstream_answer
from shipped_example import replay_shipped

from gateway.accounting import pricing
from gateway.config.load import parse
from gateway.dialects import chat
from gateway.feeds.package_data import DATA_FOLDER
from gateway.http.token_counter import TokenCounter
from gateway.simulator.agent_sessions import AgentSession, load_sessions
from gateway.simulator.playbook import Playbook
from gateway.values.catalog import PriceSheet
from gateway.values.request import Caller, HeaderHints
from gateway.values.usage import Usage

_CACHE_MIN_TOKENS, _CACHE_STEP_TOKENS = 1024, 128
_TOKENS_PER_MESSAGE = 4
# US dollars per million tokens of a small hosted model (gpt-5-mini's list price, 2025-08).
_CONFIG = """
version: 1
access: keys
keys:
{keys}
providers:
  p: {{base_url: "http://127.0.0.1:1/v1"}}
deployments:
  mini: {{provider: p, model: mini, tier: small, price: {{input: 0.25, output: 2, cached_input: 0.025}},
         context_tokens: 400000, output_tokens: 128000}}
routes:
  mini: {{candidates: [mini]}}
sessions: {{caps: {{}}}}
loop_guard: {{mode: shadow}}
budgets:
{budgets}
"""


def main() -> None:
    """Count tokens, replay under both kinds of hold, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--factor", type=float, default=1.3, help="budget over true cost (default: 1.3)")
    parser.add_argument("--safety", type=float, default=1.5, help="safety_factor of the holds (default: 1.5)")
    parser.add_argument("--max-tokens", type=int, help="max_tokens of every call (default: none)")
    parser.add_argument("--json", type=Path, help="write the counts as JSON")
    parser.add_argument("--sessions", type=int, default=10**9, help="replay at most so many, chosen at random")
    args = parser.parse_args()
    paths = sorted(args.folder.glob("*.jsonl.gz"))
    if not paths:
        sys.exit(f"error: no *.jsonl.gz in {args.folder}")
    recorded = [(path.name.split(".")[0], session) for path in paths for session in load_sessions([path])]
    random.Random(7).shuffle(recorded)
    del recorded[args.sessions :]
    counter = _CachedTokenCounter()
    bare = parse(_CONFIG.format(keys="  - {id: k, team: t, secret: {env: K}}", budgets="  {}"), "x", {"K": "k"})[0]
    prices = bare.deployments["mini"].price_sheet
    assert prices is not None
    runs = [
        run
        for number, (source, session) in enumerate(recorded)
        if (run := _session_run(f"{source}.{number}", session, counter, prices))
    ]
    print(f"{len(runs)} sessions, {sum(len(run.calls) for run in runs)} calls", file=sys.stderr)
    results = {kind: asyncio.run(_replay(runs, kind, args)) for kind in ("worst_case", "expected")}
    for parallel, name in ((1, "shipped example"), (8, "shipped example, 8 calls at a time")):
        results[name] = asyncio.run(replay_shipped(runs, parallel, args.max_tokens))
    print(_table(results))
    if args.json:
        args.json.write_text(
            json.dumps({kind: _result_fields(tally) for kind, tally in results.items()}, indent=2) + "\n"
        )


class _CachedTokenCounter:
    """Counts tokens with the o200k_base vocabulary; each text once."""

    def __init__(self) -> None:
        counter = TokenCounter(DATA_FOLDER)
        self._encoding = counter._load()
        if self._encoding is None:
            sys.exit("error: the o200k_base vocabulary is not available")
        self._counts: dict[str, int] = {}

    def tokens_of(self, message: dict[str, Any]) -> int:
        """Tokens of a message."""
        text = json.dumps({name: value for name, value in message.items() if name != "role"}, ensure_ascii=False)
        content = message.get("content")
        if isinstance(content, str) and len(message) == 2:
            text = content
        if text not in self._counts:
            self._counts[text] = len(self._encoding.encode_ordinary(text))
        return self._counts[text] + _TOKENS_PER_MESSAGE


def _session_run(
    name: str, session: AgentSession, counter: _CachedTokenCounter, prices: PriceSheet
) -> SessionRun | None:
    """The session's calls with their true usage; None for a session without calls."""
    calls, cost, previous_tokens = [], 0, 0
    tools = len(json.dumps(session.tools)) // 4 if session.tools else 0
    for history, reply in session.calls():
        body = {"model": "mini", "messages": history, **({"tools": list(session.tools)} if session.tools else {})}
        tokens = tools + sum(counter.tokens_of(message) for message in history)
        cached = previous_tokens // _CACHE_STEP_TOKENS * _CACHE_STEP_TOKENS
        cached = cached if previous_tokens >= _CACHE_MIN_TOKENS else 0
        usage = Usage(input=tokens, cached_input=min(cached, tokens), output=counter.tokens_of(reply))
        cost += pricing.charge(prices, usage)
        calls.append((orjson.dumps(body), usage, str(reply.get("content") or "") or json.dumps(reply)))
        previous_tokens = tokens
    stream = len(name) % 2 == 0
    return SessionRun(name=name, stream=stream, calls=calls, cost_nusd=cost) if calls else None


async def _replay(runs: list[SessionRun], kind: str, args: argparse.Namespace) -> HoldOutcomes:
    keys = "\n".join(f"  - {{id: {run.name}, team: t, secret: {{env: K{number}}}}}" for number, run in enumerate(runs))
    limits = "\n".join(
        f"  {run.name}: {{scope: {{key: {run.name}}}, limit: {{usd: {_usd(run.cost_nusd, args.factor)}}},"
        f" window: total, hold: {kind}, safety_factor: {args.safety}}}"
        for run in runs
    )
    env = {f"K{number}": f"secret-{number}" for number in range(len(runs))}
    snapshot = parse(_CONFIG.format(keys=keys, budgets=limits), "holds.yaml", env)[0]
    book, tally = Playbook(snapshot, []), HoldOutcomes()
    for run in runs:
        await _replay_session(book, run, tally, args)
    for budget, run in zip(snapshot.budgets, runs, strict=True):
        _count_overspend(book, budget.limit, run, tally)
    return tally


async def _replay_session(book: Playbook, run: SessionRun, tally: HoldOutcomes, args: argparse.Namespace) -> None:
    caller, tally.sessions = Caller(key=run.name, team="t"), tally.sessions + 1
    source = tally.by_source.setdefault(run.name.partition(".")[0], [0, 0])
    source[0] += 1
    for number, (body, usage, text) in enumerate(run.calls):
        tally.calls += 1
        if args.max_tokens:
            body = body[:-1] + f',"max_tokens":{args.max_tokens}}}'.encode()
        if run.stream:
            body = body[:-1] + b',"stream":true}'
        book.upstream_script = [upstream_answer(usage, text, stream=run.stream)]
        hints = HeaderHints(session=run.name, session_source="x")
        answer = await book.pipeline.serve(chat.parse(body), caller, hints, book.caller_stream)
        book.events.clear()
        book.caller_stream.written = b""
        if answer.status != 200:
            tally.refused += 1
            source[1] += 1
            tally.refused_at_first_call += number == 0
            return
        sent = orjson.loads(b"".join(book.upstream_calls.pop().body))
        limit = sent.get("max_tokens")
        tally.answers_shortened += book.ledger_entries[-1].code == "hold_exhausted" or (
            limit is not None and limit < usage.output
        )


def _count_overspend(book: Playbook, limit: int, run: SessionRun, tally: HoldOutcomes) -> None:
    """Counts an overspent budget, and one overspent beyond the documented bound.

    The bound of a sequential session is the largest charge of one call beyond its hold.
    """
    entries = [entry for entry in book.ledger_entries if entry.key == run.name]
    excess = sum(entry.charge_nusd for entry in entries) - limit
    if excess <= 0:
        return
    tally.budgets_overspent += 1
    tally.worst_excess_nusd = max(tally.worst_excess_nusd, excess)
    tally.overspent_beyond_bound += excess > max(0, *(entry.charge_nusd - entry.hold_nusd for entry in entries))


def _usd(nusd: int, factor: float) -> str:
    return f"{round(nusd * factor) / 1e9:.9f}"


def _result_fields(tally: HoldOutcomes) -> dict[str, Any]:
    share = tally.refused / tally.sessions
    return {
        "sessions": tally.sessions, "calls": tally.calls, "refused": tally.refused, "refused_share": share,
        "refused_at_first_call": tally.refused_at_first_call, "shortened_streams": tally.answers_shortened,
        "overspent": tally.budgets_overspent, "worst_excess_usd": tally.worst_excess_nusd / 1e9,
        "beyond_bound": tally.overspent_beyond_bound, "by_source": tally.by_source,
    }  # fmt: skip


def _table(results: dict[str, HoldOutcomes]) -> str:
    columns = (
        "hold", "sessions", "calls", "refused", "share", "at the first call", "answers cut short", "overspent",
        "worst excess USD", "beyond the bound",
    )  # fmt: skip
    rows = [f"| {' | '.join(columns)} |", "|---|" + "---|" * 9]
    for kind, tally in results.items():
        fields = _result_fields(tally)
        rows.append(
            f"| {kind} | {fields['sessions']} | {fields['calls']} |"
            f" {fields['refused']} | {fields['refused_share']:.2%} |"
            f" {fields['refused_at_first_call']} | {fields['shortened_streams']} | {fields['overspent']} |"
            f" {fields['worst_excess_usd']:.6f} | {fields['beyond_bound']} |"
        )
        rows += [
            f"|   {source} | {count} | | {refused} | {refused / count:.2%} | | | | | |"
            for source, (count, refused) in fields["by_source"].items()
        ]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
