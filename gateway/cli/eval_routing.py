"""`penstock eval routing`, `floor` and `economics`: the router, its quality floor and the cost of whole sessions."""

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
    """One subcommand for each of the three."""
    summary = "Compare the router with random, length and an oracle on labeled prompts"
    routing = subjects.add_parser("routing", help=summary, description=f"{summary}.")
    routing.add_argument(
        "data", nargs="+", type=Path, metavar="DATA", help="labeled prompts: JSON Lines files, .gz or not, or folders"
    )
    routing.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file, as JSON")
    routing.add_argument("--plot", type=Path, metavar="PNG", help="also draw the pooled curves into this file")
    routing.add_argument(
        "--own-labels", type=_non_negative_int, default=0, metavar="N",
        help="correct the router with at most N labels of each source first: rows marked train, else cross-fitted (default: 0)",
    )  # fmt: skip
    routing.add_argument(
        "--weights",
        type=Path,
        default=scorer_weights.WEIGHTS_PATH,
        metavar="FILE",
        help="weights of the scorer (default: those of the package)",
    )
    routing.add_argument("--seed", type=int, default=7, metavar="N", help="random seed (default: 7)")
    summary = "Test the quality floor on many random splits of labeled prompts"
    floor = subjects.add_parser("floor", help=summary, description=f"{summary}.")
    floor.add_argument(
        "data", nargs="+", type=Path, metavar="DATA", help="labeled prompts: JSON Lines files, .gz or not, or folders"
    )
    floor.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file, as JSON")
    floor.add_argument(
        "--keep",
        type=float,
        default=0.97,
        metavar="SHARE",
        help="share of the frontier's quality to keep (default: 0.97)",
    )
    floor.add_argument(
        "--confidence", type=float, default=0.95, metavar="SHARE", help="confidence of the floor (default: 0.95)"
    )
    floor.add_argument(
        "--labels",
        type=_non_negative_int,
        default=1000,
        metavar="N",
        help="labels that set the ceiling (default: 1000)",
    )
    floor.add_argument(
        "--splits", type=_non_negative_int, default=200, metavar="N", help="splits of each source (default: 200)"
    )
    floor.add_argument(
        "--weights",
        type=Path,
        default=scorer_weights.WEIGHTS_PATH,
        metavar="FILE",
        help="weights of the scorer (default: those of the package)",
    )
    floor.add_argument("--seed", type=int, default=7, metavar="N", help="random seed of the splits (default: 7)")
    summary = "Compare the cost of recorded sessions by routing policy, caches included"
    economics = subjects.add_parser("economics", help=summary, description=f"{summary}.")
    economics.add_argument(
        "data", nargs="+", type=Path, metavar="DATA", help="recorded sessions: JSON Lines files, .gz or not, or folders"
    )
    economics.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file, as JSON")
    economics.add_argument(
        "--small", default="gpt-5-mini", metavar="MODEL", help="small model, in the price list (default: gpt-5-mini)"
    )
    economics.add_argument(
        "--frontier", default="gpt-5", metavar="MODEL", help="frontier model, in the price list (default: gpt-5)"
    )
    economics.add_argument(
        "--ceiling",
        type=float,
        default=0.35,
        metavar="C",
        help="highest complexity that the small tier serves (default: 0.35)",
    )
    economics.add_argument(
        "--flips",
        type=float,
        metavar="P",
        help="draw the tier of each call, frontier with probability P, instead of classifying it",
    )
    economics.add_argument(
        "--seed", type=int, default=7, metavar="N", help="random seed of the order of sessions (default: 7)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the tables. Raises ValueError, OSError and ConfigError for unusable data."""
    return {"floor": _eval_floor, "economics": _eval_economics, "routing": _eval_routing}[args.subject](args)


def _eval_economics(args: argparse.Namespace) -> int:
    routing = _ECONOMICS_CONFIG.format(small=args.small, frontier=args.frontier, ceiling=args.ceiling)
    snapshot, _ = parse(routing, "prices", {})
    for name in ("small", "frontier"):
        if snapshot.deployments[name].price_sheet is None:
            raise ValueError(f"unknown model '{getattr(args, name)}' in the price list")
    recordings = [recording for recording in load_recordings(args.data) if not recording.synthetic]
    if not recordings:
        raise ValueError("DATA has no recorded sessions")
    costs = session_costs.run(recordings, snapshot, scorer_weights.load(), args.seed, args.flips)
    for page in session_costs.render(costs, {"small": args.small, "frontier": args.frontier}):
        print(page)
    if args.json is not None:
        args.json.write_bytes(orjson.dumps(costs.document(), option=orjson.OPT_INDENT_2))
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


def _eval_floor(args: argparse.Namespace) -> int:
    if not 0 < args.keep < 1 or not 0 < args.confidence < 1 or not args.splits:
        raise ValueError("--keep and --confidence must be between 0 and 1, and --splits at least 1")
    results = quality_floor.run(
        labelled_prompts.load(args.data),
        scorer_weights.load(args.weights),
        keep=args.keep,
        confidence=args.confidence,
        labels=args.labels,
        splits=args.splits,
        seed=args.seed,
    )
    for page in quality_floor.render(results, args.keep, args.confidence):
        print(page)
    if args.json is not None:
        document = {source: result.document() for source, result in results.items()}
        args.json.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return 0


def _eval_routing(args: argparse.Namespace) -> int:
    test_rows, train_rows = labelled_prompts.split_test_train(labelled_prompts.load(args.data))
    scorer = scorer_weights.load(args.weights)
    result = benchmark.run(test_rows, routers(scorer, args.own_labels, args.seed, train_rows), args.seed)
    for page in report.render(result, args.own_labels):
        print(page)
    if args.json is not None:
        args.json.write_bytes(orjson.dumps(result.document(), option=orjson.OPT_INDENT_2))
    if args.plot is not None:
        report.plot(result, args.plot)
    return 0


def _non_negative_int(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return number
