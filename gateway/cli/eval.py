"""`penstock eval`: the loop guard and published rules on recorded agent sessions; the router on labelled prompts; the
energy estimate beside published figures."""

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
    """One subject each."""
    subjects = parser.add_subparsers(dest="subject", required=True, metavar="SUBJECT")
    text = "replay recorded sessions before the loop guard and published rules"
    loops = subjects.add_parser("loops", help=text, description=f"{text[0].upper()}{text[1:]}.")
    loops.add_argument(
        "data", nargs="+", type=Path, metavar="DATA", help="JSON Lines files (.gz or not), or folders of them"
    )
    loops.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file")
    loops.add_argument("--rules", default=",".join(RULE_NAMES), metavar="NAME,...", help="only these (default: all)")
    loops.add_argument("--threshold-stop", type=int, metavar="N", help="score at which our guard stops")
    loops.add_argument("--input-price", type=float, default=3.0, metavar="USD", help="per million tokens (default: 3)")
    loops.add_argument(
        "--output-price", type=float, default=15.0, metavar="USD", help="per million tokens (default: 15)"
    )
    loops.add_argument(
        "--long", type=int, metavar="N", help="instead, make N long healthy sessions out of DATA's and try those"
    )
    loops.add_argument("--seed", type=int, default=7, help="of the long sessions (default: 7)")
    routing_arguments(subjects)
    eval_energy.add_arguments(subjects)


def run(chosen: argparse.Namespace) -> int:
    """Print the tables, and write the files that were asked for."""
    if chosen.subject == "loops":
        return _eval_loops(chosen)
    try:
        return eval_energy.run(chosen) if chosen.subject == "energy" else run_routing(chosen)
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 1


def _eval_loops(chosen: argparse.Namespace) -> int:
    meter = GuardCost()
    try:
        rules = rule_factories(chosen.rules.split(","), loop_limits(chosen.threshold_stop), meter)
    except ValueError as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 2
    prices = TokenPrices(input=chosen.input_price, output=chosen.output_price)
    try:
        recordings = load_recordings(chosen.data)
        if chosen.long is not None:
            recordings = long_sessions.generate_sessions(recordings, chosen.long, chosen.seed)
        found = benchmark.run(recordings, rules, prices, meter)
        for piece in report.render(found, prices):
            print(piece)
        if chosen.json is not None:
            chosen.json.write_bytes(orjson.dumps(found.document(), option=orjson.OPT_INDENT_2))
    except (ValueError, OSError) as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 1
    return 0
