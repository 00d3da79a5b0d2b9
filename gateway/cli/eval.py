"""`penstock eval`: loop guard, router, quality floor, session costs and energy estimate, evaluated on data."""

import argparse
import sys
from pathlib import Path

import orjson

from ..offline.evaluation import benchmark, long_sessions, report
from ..offline.evaluation.penstock_rule import GuardCost, loop_limits
from ..offline.evaluation.recordings import load_recordings
from ..offline.evaluation.replay import RULE_NAMES, rule_factories
from ..offline.evaluation.session_spend import TokenPrices
from ..values.errors import ConfigError
from . import eval_energy
from .eval_routing import add_arguments as routing_arguments
from .eval_routing import run as run_routing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subcommand for each subject."""
    subjects = parser.add_subparsers(dest="subject", required=True, metavar="SUBJECT")
    summary = "Compare the loop guard with published rules on recorded sessions"
    loops = subjects.add_parser("loops", help=summary, description=f"{summary}.")
    loops.add_argument(
        "data", nargs="+", type=Path, metavar="DATA", help="recorded sessions: JSON Lines files, .gz or not, or folders"
    )
    loops.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file, as JSON")
    loops.add_argument(
        "--rules",
        default=",".join(RULE_NAMES),
        metavar="NAME,...",
        help=f"rules to compare (default: all, {', '.join(RULE_NAMES)})",
    )
    loops.add_argument(
        "--threshold-stop", type=int, metavar="N", help="score at which the loop guard stops a session (default: 8)"
    )
    loops.add_argument(
        "--input-price", type=float, default=3.0, metavar="USD", help="price per million input tokens (default: 3)"
    )
    loops.add_argument(
        "--output-price", type=float, default=15.0, metavar="USD", help="price per million output tokens (default: 15)"
    )
    loops.add_argument(
        "--long-sessions",
        type=int,
        metavar="N",
        help="evaluate N long healthy sessions that are composed of those in DATA",
    )
    loops.add_argument("--seed", type=int, default=7, metavar="N", help="random seed of --long-sessions (default: 7)")
    routing_arguments(subjects)
    eval_energy.add_arguments(subjects)


def run(args: argparse.Namespace) -> int:
    """Print the tables and write the requested files; 1 for unusable data, 2 for invalid arguments."""
    if args.subject == "loops":
        return _eval_loops(args)
    try:
        return eval_energy.run(args) if args.subject == "energy" else run_routing(args)
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 1


def _eval_loops(args: argparse.Namespace) -> int:
    meter = GuardCost()
    try:
        rules = rule_factories(args.rules.split(","), loop_limits(args.threshold_stop), meter)
    except ValueError as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 2
    prices = TokenPrices(input=args.input_price, output=args.output_price)
    try:
        recordings = load_recordings(args.data)
        if args.long_sessions is not None:
            recordings = long_sessions.generate_sessions(recordings, args.long_sessions, args.seed)
        result = benchmark.run(recordings, rules, prices, meter)
        for part in report.render(result, prices):
            print(part)
        if args.json is not None:
            args.json.write_bytes(orjson.dumps(result.document(), option=orjson.OPT_INDENT_2))
    except (ValueError, OSError) as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 1
    return 0
