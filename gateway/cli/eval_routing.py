"""`penstock eval routing`, `floor` and `economics`: our router on prompts with known outcomes, what its quality floor
claims, and what whole sessions cost."""

import argparse
from pathlib import Path
from typing import Any

import orjson

from ..config.load import parse
from ..feeds import scorer_weights
from ..offline.evaluation.recordings import load_recordings
from ..offline.evaluation.routing import benchmark, quality_floor, report, session_costs
from ..offline.evaluation.routing.routers import routers
from ..offline.training import labelled_prompts


def add_arguments(subjects: Any) -> None:
    """Data in; tables, figures and curves out."""
    text = "rank labelled prompts by our router, and by random, length and the oracle"
    routing = subjects.add_parser("routing", help=text, description=f"{text[0].upper()}{text[1:]}.")
    routing.add_argument(
        "data", nargs="+", type=Path, metavar="DATA", help="JSON Lines files (.gz or not), or folders of them"
    )
    routing.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file")
    routing.add_argument("--plot", type=Path, metavar="PNG", help="also draw the pooled curves")
    routing.add_argument(
        "--own-labels", type=_non_negative_int, default=0, metavar="N",
        help="first correct the router by at most N labels of each source (rows marked train, else cross-fitted: never by a prompt's own)",
    )  # fmt: skip
    routing.add_argument(
        "--weights",
        type=Path,
        default=scorer_weights.WEIGHTS_PATH,
        help="of the scorer (default: those of the package)",
    )
    routing.add_argument("--seed", type=int, default=7, help="of draws and orders (default: 7)")
    text = "split labelled prompts many times: does the quality floor hold, and what does it save?"
    floor = subjects.add_parser("floor", help=text, description=text)
    floor.add_argument("data", nargs="+", type=Path, metavar="DATA", help="files or folders, as for routing")
    floor.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file")
    floor.add_argument("--keep", type=float, default=0.97, help="share of the frontier's quality (default: 0.97)")
    floor.add_argument("--confidence", type=float, default=0.95, help="of the claim (default: 0.95)")
    floor.add_argument("--labels", type=_non_negative_int, default=1000, help="that set the ceiling (default: 1000)")
    floor.add_argument("--splits", type=_non_negative_int, default=200, help="of each source (default: 200)")
    floor.add_argument("--weights", type=Path, default=scorer_weights.WEIGHTS_PATH, help="of the scorer")
    floor.add_argument("--seed", type=int, default=7, help="of the splits (default: 7)")
    text = "price recorded agent sessions: always small, always frontier, per request, cache-aware"
    economics = subjects.add_parser("economics", help=text, description=text)
    economics.add_argument("data", nargs="+", type=Path, metavar="DATA", help="recorded sessions, as for loops")
    economics.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file")
    economics.add_argument("--small", default="gpt-5-mini", metavar="MODEL", help="of the price list")
    economics.add_argument("--frontier", default="gpt-5", metavar="MODEL", help="of the price list")
    economics.add_argument(
        "--ceiling", type=float, default=0.35, help="complexity that small may serve (default: 0.35)"
    )
    economics.add_argument(
        "--flips",
        type=float,
        metavar="P",
        help="instead of the classifier: each call wants the frontier with this probability",
    )
    economics.add_argument("--seed", type=int, default=7, help="of the order of sessions (default: 7)")


def run(chosen: argparse.Namespace) -> int:
    """Print the tables. Raises ValueError, OSError, ConfigError."""
    return {"floor": _eval_floor, "economics": _eval_economics, "routing": _eval_routing}[chosen.subject](chosen)


def _eval_economics(chosen: argparse.Namespace) -> int:
    routing = _ECONOMICS_CONFIG.format(small=chosen.small, frontier=chosen.frontier, ceiling=chosen.ceiling)
    snapshot, _ = parse(routing, "prices", {})
    for name in ("small", "frontier"):
        if snapshot.deployments[name].price_sheet is None:
            raise ValueError(f"the price list has no '{getattr(chosen, name)}'")
    recordings = [one for one in load_recordings(chosen.data) if not one.synthetic]
    if not recordings:
        raise ValueError("no recorded session in the data")
    found = session_costs.run(recordings, snapshot, scorer_weights.load(), chosen.seed, chosen.flips)
    for page in session_costs.render(found, {"small": chosen.small, "frontier": chosen.frontier}):
        print(page)
    if chosen.json is not None:
        chosen.json.write_bytes(orjson.dumps(found.document(), option=orjson.OPT_INDENT_2))
    return 0


_ECONOMICS_CONFIG = """
version: 1
access: open
providers: {{p: {{base_url: "http://127.0.0.1/v1"}}}}
deployments:
  small: {{provider: p, model: "{small}", tier: small}}
  frontier: {{provider: p, model: "{frontier}", tier: frontier}}
routes: {{auto: {{candidates: [small, frontier], auto: true}}}}
tiers: {{small: {{max_complexity: {ceiling}}}, medium: {{max_complexity: {ceiling}}}}}
"""


def _eval_floor(chosen: argparse.Namespace) -> int:
    if not 0 < chosen.keep < 1 or not 0 < chosen.confidence < 1 or not chosen.splits:
        raise ValueError("--keep and --confidence lie between 0 and 1, and there is at least one split")
    found = quality_floor.run(
        labelled_prompts.load(chosen.data),
        scorer_weights.load(chosen.weights),
        keep=chosen.keep,
        confidence=chosen.confidence,
        labels=chosen.labels,
        splits=chosen.splits,
        seed=chosen.seed,
    )
    for page in quality_floor.render(found, chosen.keep, chosen.confidence):
        print(page)
    if chosen.json is not None:
        document = {place: one.document() for place, one in found.items()}
        chosen.json.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return 0


def _eval_routing(chosen: argparse.Namespace) -> int:
    (rows, taught), scorer = (
        labelled_prompts.split_test_train(labelled_prompts.load(chosen.data)),
        scorer_weights.load(chosen.weights),
    )
    found = benchmark.run(rows, routers(scorer, chosen.own_labels, chosen.seed, taught), chosen.seed)
    for page in report.render(found, chosen.own_labels):
        print(page)
    if chosen.json is not None:
        chosen.json.write_bytes(orjson.dumps(found.document(), option=orjson.OPT_INDENT_2))
    if chosen.plot is not None:
        report.plot(found, chosen.plot)
    return 0


def _non_negative_int(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return number
