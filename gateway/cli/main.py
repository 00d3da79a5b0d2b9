"""`penstock COMMAND`: the table of commands."""

import argparse
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import ConfigError
from . import check, demo, export, serve

COMMANDS = {"serve": serve, "check": check, "export": export, "demo": demo}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 for what went wrong, 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="penstock", description="Cost-and-carbon aware gateway for AI agents.")
    parser.add_argument("--version", action="version", version=f"penstock {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        module.arguments(commands.add_parser(name, help=module.HELP, description=module.HELP))
    chosen = parser.parse_args(arguments)
    try:
        return COMMANDS[chosen.command].run(chosen)
    except ConfigError as error:
        print("\n".join(error.complaints), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
