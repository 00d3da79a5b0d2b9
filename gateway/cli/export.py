"""`penstock export`: sums per group from the ledger, as CSV or JSON."""

import argparse
import sys
import time

from ..app import export_ledger
from ..config.settings import read_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Times are ISO 8601, UTC unless they say otherwise; `to` is not included."""
    parser.add_argument("--from", dest="start", metavar="TIME", help="first moment (default: the beginning)")
    parser.add_argument("--to", dest="end", metavar="TIME", help="first moment after (default: now)")
    parser.add_argument("--by", default="task_type", help="comma-separated groups (default: task_type)")
    parser.add_argument("--format", choices=("csv", "json"), default="csv")


def run(chosen: argparse.Namespace) -> int:
    """Print the table."""
    settings = read_settings()
    if not (settings.data / "ledger.sqlite").exists():
        print(f"penstock: no ledger in {settings.data} (set PENSTOCK_DATA)", file=sys.stderr)
        return 1
    asked = {"from": chosen.start, "to": chosen.end, "by": chosen.by, "format": chosen.format}
    try:
        text, _ = export_ledger(settings.data, {name: value for name, value in asked.items() if value}, now=time.time())
    except ValueError as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 2
    sys.stdout.write(text)
    return 0
