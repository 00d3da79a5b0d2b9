"""`penstock learn`: train the shipped scorer from public outcomes; fit floors to the labels of own traffic."""

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

# Five folds with something to learn in each.
_ROWS_MIN = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Train or fit."""
    subjects = parser.add_subparsers(dest="subject", required=True, metavar="SUBJECT")
    text = "train the scorer from labelled prompts; the same data give the same bytes"
    training = subjects.add_parser("train", help=text, description=f"{text[0].upper()}{text[1:]}.")
    training.add_argument(
        "data", nargs="+", type=Path, metavar="DATA", help="JSON Lines files (.gz or not), or folders"
    )
    training.add_argument(
        "--out", type=Path, default=scorer_weights.WEIGHTS_PATH, help="weights file (default: the one in the package)"
    )
    training.add_argument("--leave-out", default="", metavar="SOURCE,...", help="sources not to learn from")
    text = "fit quality floors, and corrections of the scorer, to the labels in a data folder"
    fitting = subjects.add_parser("fit", help=text, description=f"{text[0].upper()}{text[1:]}.")
    fitting.add_argument(
        "config", nargs="?", type=Path, help="routing file (default: PENSTOCK_CONFIG or config/routing.yaml)"
    )
    fitting.add_argument("--dry-run", action="store_true", help="print what would be fitted, and change nothing")
    training.add_argument("--seed", type=int, default=0, help="of the trainer's own draws (default: 0)")


def run(chosen: argparse.Namespace) -> int:
    """Do what was asked for."""
    try:
        return _train(chosen) if chosen.subject == "train" else _fit(chosen)
    except (ValueError, OSError, sqlite3.Error) as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 1


def _train(chosen: argparse.Namespace) -> int:
    rows, left_out = labelled_prompts.load(chosen.data), {name for name in chosen.leave_out.split(",") if name}
    unknown = left_out - {row.source_group for row in rows}
    if unknown:
        raise ValueError(f"no such source in the data: {', '.join(sorted(unknown))}")
    # Neither what is to be tested on, nor other rows of the same questions.
    apart = {row.question_id for row in rows if row.split == "test" or row.source_group in left_out}
    rows = [row for row in rows if row.question_id not in apart]
    if not rows:
        raise ValueError("nothing is left to learn from")
    if len(rows) < _ROWS_MIN:
        raise ValueError(f"{len(rows)} rows are too few to learn from; {_ROWS_MIN} is the least")
    growth = TreeParameters()
    trained = train_scorer.TrainedScorer(rows, growth, chosen.seed)
    fresh = chosen.out.with_name(f"{chosen.out.name}.new")
    fresh.write_bytes(train_scorer.weights_file(trained, train_scorer.provenance(rows, growth, chosen.seed)))
    # What the gateway cannot read does not replace what it can.
    scorer_weights.load(fresh)
    fresh.replace(chosen.out)
    print(
        f"{chosen.out.name}: {len(rows)} rows, {len(trained.word_weights.vocabulary)} words, {len(trained.trees)} trees"
    )
    return 0


def _fit(chosen: argparse.Namespace) -> int:
    settings = read_settings()
    snapshot, _ = load(chosen.config or settings.config, os.environ, need_secrets=False)
    labels = SqliteLabels(settings.data, snapshot.learning.labels_max)
    labels.create()
    learnt = fit_floors.fit_floors(labels.valid_labels(), scorer_weights.load(), snapshot.quality_policy, time.time())
    print(_fitted_table(learnt))
    if not chosen.dry_run:
        write_learned(settings.data, learnt)
    return 0


def _fitted_table(learnt: LearnedFloors) -> str:
    head = (
        "organisation",
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
            *group, f"{one.labels:,}", f"{one.keep:g}", f"{one.confidence:g}",
            "too few labels" if one.ceiling is None else f"{one.ceiling:.3f}", f"{one.share:.0%}", f"{one.kept:.3f}",
            "yes" if one.head is not None and (one.head.numbers or one.head.words) else "no",
        )
        for group, one in sorted(learnt.floors.items())
    ]  # fmt: skip
    return table("Quality floors", head, rows) if rows else "no labels of both sides yet: nothing to fit"
