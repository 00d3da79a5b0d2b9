"""`penstock eval energy`: our energy estimate beside published figures, and beside EcoLogits."""

import argparse
from pathlib import Path
from typing import Any

import orjson

from ..offline.evaluation.energy import benchmark, published_figures, report


def add_arguments(subjects: Any) -> None:
    """Tables of figures in; errors out."""
    text = "compare the energy estimate with published figures, by subset"
    energy = subjects.add_parser("energy", help=text, description=f"{text[0].upper()}{text[1:]}.")
    energy.add_argument(
        "data", nargs="+", type=Path, metavar="CSV", help="published points (truth.csv), ML.ENERGY's v3 or v2 table"
    )
    energy.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file")


def run(chosen: argparse.Namespace) -> int:
    """Print the table. Raises ValueError, OSError."""
    found = benchmark.run(published_figures.load_figures(chosen.data))
    for page in report.render(found):
        print(page)
    if chosen.json is not None:
        document = {"subsets": {name: one.to_json() for name, one in found.items()}}
        chosen.json.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return 0
