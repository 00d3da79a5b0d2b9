"""`penstock check FILE`: every mistake in a routing file at once, as file:line:column."""

import argparse
import os
from pathlib import Path

from ..config.load import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Secrets need not be present unless asked for."""
    parser.add_argument("config", type=Path, help="routing file")
    parser.add_argument("--secrets", action="store_true", help="secrets must be there too")


def run(chosen: argparse.Namespace) -> int:
    """Print notes, a summary, and what each footprint rests on; complaints leave as ConfigError."""
    snapshot, notes = load(chosen.config, os.environ, need_secrets=chosen.secrets)
    for note in notes:
        print(f"note: {note}")
    print(
        f"{chosen.config}: ok, configuration {snapshot.generation}: {len(snapshot.routes)} routes, "
        f"{len(snapshot.deployments)} deployments, {len(snapshot.budgets)} budgets"
    )
    for name, one in snapshot.deployments.items():
        grid = one.intensity
        print(f"  {name}: {grid.zone} {grid.grams_per_kwh:.4g} g/kWh ({grid.source}), footprint {one.footprint_method}")
    return 0
