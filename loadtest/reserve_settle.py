"""Measures a reservation and its settlement, alone and with 10,000 open holds and 5,000 other budgets.

    python loadtest/reserve_settle.py

In process: CPU of `Reserver.reserve` (lines, hold options, reservation) and of the settlement, with five budgets on
the request. On a Valkey of its own: wall time of the pair, one at a time, and its round trips. Each figure is the
minimum of several rounds.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gateway.config.load import parse
from gateway.dialects import chat
from gateway.services.supervisor import Supervisor
from gateway.simulator.playbook import CALLER, Playbook
from gateway.stores.budgets_redis import RedisBudgets
from gateway.stores.redis_scripts import SingleNode
from gateway.values.budget import Budget, BudgetLine, HoldOption, Measure, Window
from gateway.values.plan import Plan, Refusal
from gateway.values.request import HeaderHints
from tests.snapshots import BASE_CONFIG, ENV
from tests.stores.servers import Server

OPEN_HOLDS, OTHER_BUDGETS, ROUNDS, PAIRS = 10_000, 5_000, 5, 2_000
REQUEST_BUDGETS = """
  key-day: {scope: {key: "*"}, limit: {usd: 1000000}, window: day}
  team-month: {scope: {team: research}, limit: {tokens: 100000000000}, window: month}
  task-day: {scope: {task_type: "*"}, limit: {wh: 100000000}, window: day}
  route-hour: {scope: {route: auto}, limit: {calls: 100000000}, window: rolling-1h}
  all: {limit: {g_co2e: 1000000000}, window: total}
"""
BODY = b'{"model":"auto","messages":[{"role":"user","content":"hi"}],"max_tokens":100}'
SPENT_AMOUNTS = (1000, 50, 1, 100, 100)


def main() -> None:
    """Print the table and the round trips."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    print("| reserve + settle | alone | 10,000 open holds | and 5,000 budgets | increase |\n|---|---|---|---|---|")
    alone, held, crowded = (
        asyncio.run(in_process_us(*case)) for case in ((0, 0), (OPEN_HOLDS, 0), (OPEN_HOLDS, OTHER_BUDGETS))
    )
    print(f"| in process, CPU us | {alone:.1f} | {held:.1f} | {crowded:.1f} | {crowded / alone - 1:+.0%} |")
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            alone, held, crowded = (
                asyncio.run(on_valkey_us(server, *case))
                for case in ((0, 0), (OPEN_HOLDS, 0), (OPEN_HOLDS, OTHER_BUDGETS))
            )
            trips = asyncio.run(round_trips(server))
        finally:
            server.kill()
    print(f"| on Valkey, wall us | {alone:.0f} | {held:.0f} | {crowded:.0f} | {crowded / alone - 1:+.0%} |")
    print(f"\nround trips: {trips[0]} to reserve, {trips[1]} to settle")


async def in_process_us(open_holds: int, other_budgets: int) -> float:
    """CPU microseconds of a reservation and its settlement."""
    others = "".join(
        f"  b{n}: {{scope: {{key: k2}}, limit: {{calls: 9}}, window: day}}\n" for n in range(other_budgets)
    )
    text = BASE_CONFIG.format(
        more="budgets:" + REQUEST_BUDGETS + others, small="", near="http://127.0.0.1:1/v1", far="http://127.0.0.1:2/v1"
    )
    book = Playbook(parse(text, "pairs.yaml", ENV)[0], [])
    pipeline = book.pipeline
    hints = HeaderHints(session="s", session_source="x")
    request = chat.parse(BODY)
    identified = await pipeline._identifier.identify(
        book.snapshot, pipeline.route_of(request, hints), request, CALLER, hints
    )
    context = pipeline._build_context(identified)
    plan = pipeline._plan(context)
    assert isinstance(plan, Plan)
    attempts = list(plan.attempts)
    for number in range(open_holds):
        await pipeline._reserver.reserve(context, attempts, 0, -number - 1)
    best = float("inf")
    for turn in range(ROUNDS):
        started = time.process_time()
        for number in range(PAIRS):
            held = await pipeline._reserver.reserve(context, attempts, 0, turn * PAIRS + number)
            assert not isinstance(held, Refusal)
            book.budget_accounts.settle(held.reservation.id, SPENT_AMOUNTS, now=book.clock.seconds)
        best = min(best, time.process_time() - started)
    return best / PAIRS * 1e6


def _lines(count: int) -> tuple[BudgetLine, ...]:
    window = Window(kind="total")
    budgets = [
        Budget(name=f"b{n}", scope={}, measure=Measure(n % 5), limit=10**12, window=window) for n in range(count)
    ]
    return tuple(BudgetLine(account=budget.name, budget=budget, ceiling=budget.limit) for budget in budgets)


async def _budgets(server: Server) -> tuple[RedisBudgets, Supervisor]:
    supervisor = Supervisor()
    return RedisBudgets(
        SingleNode(server.url, supervisor.spawn, timeout=5.0), "one", start=supervisor.spawn
    ), supervisor


async def _reserve_and_settle(budgets: RedisBudgets, name: str, offers: list[HoldOption]) -> None:
    await budgets.reserve(name, lambda at: offers, tenant="acme", now=time.time(), lease=600)
    budgets.settle(name, SPENT_AMOUNTS, now=time.time())
    await budgets.flush()


async def on_valkey_us(server: Server, open_holds: int, other_budgets: int) -> float:
    """Wall microseconds of a reservation and its settlement, until it is delivered."""
    server.client().flushall()
    budgets, supervisor = await _budgets(server)
    lines = _lines(5 + other_budgets)
    offers = [HoldOption(lines=lines[:5], amounts=(10,) * 5, ceilings=(10**12,) * 5)]
    for number in range(open_holds):
        await budgets.reserve(f"o{number}", lambda at: offers, tenant="acme", now=time.time(), lease=6000)
    for number in range(0, other_budgets, 50):
        others = lines[5 + number : 55 + number]
        await _reserve_and_settle(
            budgets,
            f"a{number}",
            [HoldOption(lines=others, amounts=(1,) * len(others), ceilings=(10**12,) * len(others))],
        )
    best = float("inf")
    for turn in range(ROUNDS):
        started = time.perf_counter()
        for number in range(500):
            await _reserve_and_settle(budgets, f"r{turn}-{number}", offers)
        best = min(best, time.perf_counter() - started)
    await budgets.close()
    await supervisor.stop()
    return best / 500 * 1e6


async def round_trips(server: Server) -> tuple[int, int]:
    """Scripts that the server runs for one reservation and for its settlement."""
    server.client().flushall()
    budgets, supervisor = await _budgets(server)
    offers = [HoldOption(lines=_lines(5), amounts=(10,) * 5, ceilings=(10**12,) * 5)]
    await _reserve_and_settle(budgets, "warm", offers)
    client, counts = server.client(), []

    def scripts() -> int:
        return int(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])

    counts.append(scripts())
    await budgets.reserve("one", lambda at: offers, tenant="acme", now=time.time(), lease=600)
    counts.append(scripts())
    budgets.settle("one", SPENT_AMOUNTS, now=time.time())
    await budgets.flush()
    counts.append(scripts())
    await budgets.close()
    await supervisor.stop()
    return counts[1] - counts[0], counts[2] - counts[1]


if __name__ == "__main__":
    main()
