"""`penstock eval energy`: the energy estimate compared with published figures and EcoLogits."""

import argparse
from pathlib import Path
from typing import Any

import orjson

from ..offline.evaluation.energy import benchmark, published_figures, report


def add_arguments(subjects: Any) -> None:
    """The tables of published figures."""
    summary = "Compare the energy estimate with published figures and EcoLogits"
    energy = subjects.add_parser("energy", help=summary, description=f"{summary}.")
    energy.add_argument(
        "data",
        nargs="+",
        type=Path,
        metavar="CSV",
        help="published figures (truth.csv), or a table of ML.ENERGY v2 or v3",
    )
    energy.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file, as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the tables. Raises ValueError and OSError for unusable data."""
    results = benchmark.run(published_figures.load_figures(args.data))
    for page in report.render(results):
        print(page)
    if args.json is not None:
        document = {"subsets": {name: result.to_json() for name, result in results.items()}}
        args.json.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return 0
