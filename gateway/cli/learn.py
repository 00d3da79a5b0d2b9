"""`penstock learn`: train the shipped scorer on public outcomes, or fit quality floors to labels of own traffic."""

import argparse
import os
import sqlite3
import sys
import time
from pathlib import Path

from ..config.load import load
from ..config.settings import read_settings
from ..feeds import scorer_weights
from ..offline.evaluation.report import table
from ..offline.training import fit_floors, labelled_prompts, train_scorer
from ..offline.training.boosted_trees import TreeParameters
from ..stores.labels_sqlite import SqliteLabels, write_learned
from ..values.quality import LearnedFloors

# Enough rows for five folds.
_ROWS_MIN = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subcommand for each subject."""
    subjects = parser.add_subparsers(dest="subject", required=True, metavar="SUBJECT")
    summary = "Train the scorer on labeled prompts; equal data give equal weights"
    training = subjects.add_parser("train", help=summary, description=f"{summary}.")
    training.add_argument(
        "data", nargs="+", type=Path, metavar="DATA", help="labeled prompts: JSON Lines files, .gz or not, or folders"
    )
    training.add_argument(
        "--out",
        type=Path,
        default=scorer_weights.WEIGHTS_PATH,
        metavar="FILE",
        help="weights file to write (default: that of the package)",
    )
    training.add_argument(
        "--exclude-sources", default="", metavar="SOURCE,...", help="sources to leave out of training (default: none)"
    )
    summary = "Fit quality floors to the labels in the data folder"
    fitting = subjects.add_parser("fit", help=summary, description=f"{summary}.")
    fitting.add_argument(
        "config",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="routing file (default: PENSTOCK_CONFIG, else config/routing.yaml)",
    )
    fitting.add_argument("--dry-run", action="store_true", help="print the floors without publishing them")
    training.add_argument("--seed", type=int, default=0, metavar="N", help="random seed of the trainer (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Run the chosen subject; 1 for unusable data."""
    try:
        return _train(args) if args.subject == "train" else _fit(args)
    except (ValueError, OSError, sqlite3.Error) as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 1


def _train(args: argparse.Namespace) -> int:
    rows = labelled_prompts.load(args.data)
    excluded = {name for name in args.exclude_sources.split(",") if name}
    unknown = excluded - {row.source_group for row in rows}
    if unknown:
        raise ValueError(f"unknown source in --exclude-sources: {', '.join(sorted(unknown))}")
    # Questions of the test set and of excluded sources, in whatever row they appear.
    held_out = {row.question_id for row in rows if row.split == "test" or row.source_group in excluded}
    rows = [row for row in rows if row.question_id not in held_out]
    if not rows:
        raise ValueError("DATA has no rows to train on")
    if len(rows) < _ROWS_MIN:
        raise ValueError(f"DATA has {len(rows)} rows to train on; at least {_ROWS_MIN} are needed")
    parameters = TreeParameters()
    trained = train_scorer.TrainedScorer(rows, parameters, args.seed)
    new_file = args.out.with_name(f"{args.out.name}.new")
    new_file.write_bytes(train_scorer.weights_file(trained, train_scorer.provenance(rows, parameters, args.seed)))
    # Weights that cannot be read must not replace those that can.
    scorer_weights.load(new_file)
    new_file.replace(args.out)
    print(
        f"{args.out.name}: {len(rows)} rows, {len(trained.word_weights.vocabulary)} words, {len(trained.trees)} trees"
    )
    return 0


def _fit(args: argparse.Namespace) -> int:
    settings = read_settings()
    snapshot, _ = load(args.config or settings.config, os.environ, need_secrets=False)
    labels = SqliteLabels(settings.data, snapshot.learning.labels_max)
    labels.create()
    learned = fit_floors.fit_floors(labels.valid_labels(), scorer_weights.load(), snapshot.quality_policy, time.time())
    print(_fitted_table(learned))
    if not args.dry_run:
        write_learned(settings.data, learned)
    return 0


def _fitted_table(learned: LearnedFloors) -> str:
    head = (
        "organization",
        "task type",
        "small",
        "frontier",
        "labels",
        "keep",
        "confidence",
        "ceiling",
        "small share",
        "kept",
        "corrected",
    )
    rows = [
        (
            *group, f"{floor.labels:,}", f"{floor.keep:g}", f"{floor.confidence:g}",
            "too few labels" if floor.ceiling is None else f"{floor.ceiling:.3f}", f"{floor.share:.0%}", f"{floor.kept:.3f}",
            "yes" if floor.head is not None and (floor.head.numbers or floor.head.words) else "no",
        )
        for group, floor in sorted(learned.floors.items())
    ]  # fmt: skip
    return table("Quality floors", head, rows) if rows else "no floors fitted: no labels that compare both tiers"
