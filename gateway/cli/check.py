"""`penstock check FILE`: every problem of a routing file at once, as file:line:column."""

import argparse
import os
from collections.abc import Sized
from pathlib import Path

from ..config.load import load
from ..config.settings import weak_setting_notes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The routing file, and whether its secrets must be present."""
    parser.add_argument("config", type=Path, metavar="FILE", help="routing file")
    parser.add_argument("--secrets", action="store_true", help="also report secrets that are missing, as `serve` does")


def run(args: argparse.Namespace) -> int:
    """Print notes, a summary and the grid of each deployment. Raises ConfigError with all problems."""
    snapshot, notes = load(args.config, os.environ, need_secrets=args.secrets, weak_secrets="problem", is_strict=True)
    notes += weak_setting_notes(os.environ)
    for note in notes:
        print(f"note: {note}")
    print(
        f"{args.config}: ok, configuration {snapshot.generation}: {_counted(snapshot.routes, 'route')}, "
        f"{_counted(snapshot.deployments, 'deployment')}, {_counted(snapshot.budgets, 'budget')}"
    )
    for name, deployment in snapshot.deployments.items():
        grid = deployment.intensity
        print(
            f"  {name}: {grid.zone} {grid.grams_per_kwh:.4g} g/kWh ({grid.source}), footprint {deployment.footprint_method}"
        )
    return 0


def _counted(items: Sized, noun: str) -> str:
    return f"{len(items)} {noun}" if len(items) == 1 else f"{len(items)} {noun}s"
