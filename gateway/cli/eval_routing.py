"""`penstock eval routing`: our router and what it must beat, on prompts with known outcomes."""

import argparse
from pathlib import Path
from typing import Any

import orjson

from ..evaluation.routing import told, trial
from ..evaluation.routing.routers import routers
from ..feeds import scorer_weights
from ..learning import labelled


def arguments(subjects: Any) -> None:
    """Data in; tables, figures and curves out."""
    text = "rank labelled prompts by our router, and by random, length and the oracle"
    routing = subjects.add_parser("routing", help=text, description=f"{text[0].upper()}{text[1:]}.")
    routing.add_argument(
        "data", nargs="+", type=Path, metavar="DATA", help="JSON Lines files (.gz or not), or folders of them"
    )
    routing.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file")
    routing.add_argument("--plot", type=Path, metavar="PNG", help="also draw the pooled curves")
    routing.add_argument(
        "--own-labels", type=_count, default=0, metavar="N",
        help="first correct the router by at most N labels of each source (cross-fitted: never by a prompt's own)",
    )  # fmt: skip
    routing.add_argument(
        "--weights", type=Path, default=scorer_weights.WEIGHTS, help="of the scorer (default: those of the package)"
    )
    routing.add_argument("--seed", type=int, default=7, help="of draws and orders (default: 7)")


def run(chosen: argparse.Namespace) -> int:
    """Print the tables. Raises ValueError, OSError, ConfigError."""
    rows, scorer = labelled.load(chosen.data), scorer_weights.load(chosen.weights)
    found = trial.run(rows, routers(scorer, chosen.own_labels, chosen.seed), chosen.seed)
    for page in told.pages(found, chosen.own_labels):
        print(page)
    if chosen.json is not None:
        chosen.json.write_bytes(orjson.dumps(found.document(), option=orjson.OPT_INDENT_2))
    if chosen.plot is not None:
        told.plot(found, chosen.plot)
    return 0


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return number
