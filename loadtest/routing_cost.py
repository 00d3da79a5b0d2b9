"""Measures a routing decision in microseconds of CPU: features, classifier, plan and explanation.

    python loadtest/routing_cost.py [--rounds N]

Cases: a fresh 4 KB request (prose, and multiple-choice questions), and later turns of a conversation of 4 KB and of 1
MB whose newest text the scorer has already scored. Parsing and session state are excluded (loadtest/bench.py measures
the whole).
"""

import argparse
import json
import statistics
import time
from typing import Any

from gateway.accounting.output_estimate import OutputEstimates
from gateway.carbon.energy import energy_models
from gateway.carbon.footprint import footprint
from gateway.config.load import parse
from gateway.dialects import chat
from gateway.dialects.translation import Translator
from gateway.feeds import scorer_weights
from gateway.pipeline import headers
from gateway.pipeline.context import IdentifiedRequest, RequestContext
from gateway.pipeline.route import Router
from gateway.routing.circuit_breaker import CircuitBreakers
from gateway.routing.prompt_features import prompt_features
from gateway.routing.request_features import request_features
from gateway.sessions import ladder
from gateway.sessions.session_index import Session
from gateway.values.catalog import EnergyProfile
from gateway.values.grid import CarbonIntensity
from gateway.values.plan import Plan
from gateway.values.request import Caller, HeaderHints, Request
from gateway.values.usage import Usage

ROUTING = """
version: 1
access: open
providers: {p: {base_url: "http://127.0.0.1/v1"}}
deployments:
  small: {provider: p, model: gpt-5-mini, tier: small}
  frontier: {provider: p, model: gpt-5, tier: frontier}
routes: {auto: {candidates: [small, frontier], auto: true}}
task_types:
  code: {tools: [bash], words: [debug, function]}
  research: {tools: [web_search], words: [investigate]}
  summary: {words: [summarize, meeting]}
  extraction: {words: [extract, fields]}
"""
PROSE_PROMPT = (
    "The committee met on Tuesday to look at what had gone wrong with the second shipment of instruments, and whether "
    "the supplier in Trieste could have known of the damage before it left the harbor. It was clear that the crates "
    "had been opened; the question was at which port, and why the seals were whole. "
)
QUESTION_PROMPT = (
    "Which of the following best explains why the reaction in flask {n} slows down after 30 minutes at 25.5 degrees?\n"
    "A. The catalyst is used up.\nB. The pressure falls below 2 atm.\nC. The product inhibits the enzyme.\n"
    "D. None of the above.\n"
)


def request_body(text: str, history: int = 0, turn: int = 0) -> bytes:
    """A request with the user message `text`, followed by about `history` bytes of the agent's own steps."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "You are an agent that repairs instruments."},
        {"role": "user", "content": text},
    ]
    step = "x" * 1800
    for number in range(history // 2000 + turn):
        call = {"id": f"c{number}", "type": "function", "function": {"name": "bash", "arguments": "{}"}}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": f"{number} {step}"})
    return json.dumps(
        {
            "model": "auto",
            "messages": messages,
            "tools": [{"type": "function", "function": {"name": "read_file", "parameters": {"type": "object"}}}],
        }
    ).encode()


def decision_us(router: Router, snapshot, session: Session, request: Request, now: float) -> float:
    """Makes one decision with its explanation; returns microseconds of CPU."""
    translator, caller = Translator(request), Caller(key="k", team="t")
    loop_state = ladder.no_loop_state()
    started = time.process_time_ns()
    features = request_features(request)
    identified = IdentifiedRequest(
        request_id="r", received_at=now, snapshot=snapshot, route=snapshot.routes["auto"], request=request,
        caller=caller, hints=HeaderHints(), session=session, loop_state=loop_state, history_digest=0,
    )  # fmt: skip
    classification, role = router.classify(identified, features)
    context = RequestContext(
        request_id="r", started_at=now, started_monotonic=now, snapshot=snapshot, caller=caller, request=request,
        translator=translator, session=session, route=snapshot.routes["auto"], features=features,
        classification=classification, loop_state=loop_state,
        target=router.tier_target(identified, classification, role),
    )  # fmt: skip
    plan = router.plan(context, now=now)
    assert isinstance(plan, Plan)
    headers.context_headers(context)
    _ = f"{plan.attempts[0].reason}; {classification.reason}"
    return (time.process_time_ns() - started) / 1000


def main() -> None:
    """Print median and p99 of each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=400, help="decisions of each case (default: 400)")
    rounds = parser.parse_args().rounds
    snapshot, _ = parse(ROUTING, "routing_cost.yaml", {})
    router = Router(CircuitBreakers(), OutputEstimates(), lambda: 0.5, scorer_weights.load())
    texts = {
        "4 KB of prose": [(PROSE_PROMPT * 16)[n : n + 4096] for n in range(rounds)],
        "4 KB of questions": [
            "".join(QUESTION_PROMPT.format(n=n + k) for k in range(20))[:4096] for n in range(rounds)
        ],
    }
    print(f"{'':34s} median us   p99 us")
    for name, prompts in texts.items():
        times = [
            decision_us(
                router, snapshot, Session(id="s", source="x", started_at=0.0), chat.parse(request_body(text)), 1.0
            )
            for text in prompts
        ]
        _print_row(f"fresh, {name}", times)
        scorer, times = scorer_weights.load(), []
        for text in prompts:
            started = time.process_time_ns()
            scorer.score(prompt_features(text))
            times.append((time.process_time_ns() - started) / 1000)
        _print_row("  thereof features and scorer", times)
    for size in (4_000, 1_000_000):
        session, times = Session(id="s", source="x", started_at=0.0), []
        requests = [chat.parse(request_body(PROSE_PROMPT, size, turn)) for turn in range(20)]
        decision_us(router, snapshot, session, requests[0], 1.0)
        for _ in range(max(1, rounds // 20)):
            times += [decision_us(router, snapshot, session, request, 1.0) for request in requests]
        _print_row(f"next turn of {size // 1000:,} KB of history", times)

    _print_row("energy and carbon of one call", footprint_us(rounds))


def footprint_us(rounds: int) -> list[float]:
    """Microseconds of one footprint estimate, each the mean of a hundred: a single one is too short for the clock."""
    models = energy_models(EnergyProfile(active_params_b=37, total_params_b=671, bytes_per_param=1))
    grid, usage = CarbonIntensity(zone="FRA", grams_per_kwh=56.0, method="override"), Usage(input=2000, output=300)
    times = []
    for _ in range(rounds):
        started = time.process_time_ns()
        for _ in range(100):
            footprint(models, grid, usage)
        times.append((time.process_time_ns() - started) / 100_000)
    return times


def _print_row(name: str, times: list[float]) -> None:
    ordered = sorted(times)
    print(f"{name:34s} {statistics.median(ordered):9.1f} {ordered[int(0.99 * (len(ordered) - 1))]:8.1f}")


if __name__ == "__main__":
    main()
