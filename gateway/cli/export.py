"""`penstock export`: sums of the ledger by group, as CSV or JSON."""

import argparse
import sys
import time

from ..app import export_ledger
from ..config.settings import read_settings
from ..values.ledger_entry import GROUP_COLUMNS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The time range, the groups and the format."""
    parser.add_argument(
        "--from",
        dest="start",
        metavar="TIME",
        help="start, ISO 8601, UTC unless it has an offset (default: the first entry)",
    )
    parser.add_argument("--to", dest="end", metavar="TIME", help="end, not included (default: now)")
    parser.add_argument(
        "--by", default="task_type", metavar="GROUP,...", help=f"any of {', '.join(GROUP_COLUMNS)} (default: task_type)"
    )
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--format", choices=("csv", "json"), default="csv", help="format of the output (default: csv)")
    formats.add_argument("--json", dest="format", action="store_const", const="json", help="same as --format json")


def run(args: argparse.Namespace) -> int:
    """Print the table; 1 without a ledger, 2 for invalid arguments."""
    settings = read_settings()
    if not (settings.data / "ledger.sqlite").exists():
        print(
            f"penstock: no ledger in {settings.data}; set PENSTOCK_DATA to the data folder of a gateway",
            file=sys.stderr,
        )
        return 1
    parameters = {"from": args.start, "to": args.end, "by": args.by, "format": args.format}
    try:
        text, _ = export_ledger(
            settings.data, {name: value for name, value in parameters.items() if value}, now=time.time()
        )
    except ValueError as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 2
    sys.stdout.write(text)
    return 0
