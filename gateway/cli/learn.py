"""`penstock learn`: train the shipped scorer from public outcomes; fit floors to the labels of own traffic."""

import argparse
import sys
from pathlib import Path

from ..feeds.scorer_weights import WEIGHTS
from ..learning import labelled, train
from ..learning.trees import Growth


def arguments(parser: argparse.ArgumentParser) -> None:
    """Train or fit."""
    subjects = parser.add_subparsers(dest="subject", required=True, metavar="SUBJECT")
    text = "train the scorer from labelled prompts; the same data give the same bytes"
    training = subjects.add_parser("train", help=text, description=f"{text[0].upper()}{text[1:]}.")
    training.add_argument(
        "data", nargs="+", type=Path, metavar="DATA", help="JSON Lines files (.gz or not), or folders"
    )
    training.add_argument("--out", type=Path, default=WEIGHTS, help="weights file (default: the one in the package)")
    training.add_argument("--leave-out", default="", metavar="SOURCE,...", help="sources not to learn from")
    training.add_argument("--seed", type=int, default=0, help="of the trainer's own draws (default: 0)")


def run(chosen: argparse.Namespace) -> int:
    """Do what was asked for."""
    try:
        return _train(chosen)
    except (ValueError, OSError) as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 1


def _train(chosen: argparse.Namespace) -> int:
    rows, left_out = labelled.load(chosen.data), {name for name in chosen.leave_out.split(",") if name}
    unknown = left_out - {row.place for row in rows}
    if unknown:
        raise ValueError(f"no such source in the data: {', '.join(sorted(unknown))}")
    # Neither what is to be tested on, nor other rows of the same questions.
    apart = {row.question for row in rows if row.split == "test" or row.place in left_out}
    rows = [row for row in rows if row.question not in apart]
    if not rows:
        raise ValueError("nothing is left to learn from")
    growth = Growth()
    trained = train.Trained(rows, growth, chosen.seed)
    chosen.out.write_bytes(train.weights_file(trained, train.provenance(rows, growth, chosen.seed)))
    print(f"{chosen.out.name}: {len(rows)} rows, {len(trained.words.vocabulary)} words, {len(trained.trees)} trees")
    return 0
