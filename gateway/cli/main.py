"""`penstock COMMAND`: the table of commands.

Only the chosen command's module is imported: `serve` must start fast, without the client libraries of the demo. No other
module is imported by name.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..stores.migrations import OutdatedLedger
from ..values.errors import ConfigError
from ..values.extras import EXTRA_BY_PACKAGE, install_hint

COMMANDS = {
    "serve": "Run the gateway",
    "check": "Check a routing file and report every problem at once",
    "sessions": "List, show, resume, stop and label agent sessions",
    "explain": "Show how a request was routed, charged and estimated",
    "export": "Print requests, cost, energy and carbon by group",
    "eval": "Evaluate loop guard, router, quality floor or energy estimate on data",
    "learn": "Train the scorer, or fit quality floors to labels of own traffic",
    "demo": "Run agents through a gateway in front of two simulated providers",
}
_EPILOG = """\
Exit status:
  0  success
  1  the command failed, or the routing file has problems
  2  invalid usage

Settings are read from PENSTOCK_* environment variables (docs/configuration.md).
Run 'penstock COMMAND --help' for the arguments of a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 success, 1 failure, 2 invalid usage."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="penstock",
        description="Cost- and carbon-aware gateway between AI agents and model providers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"penstock {__version__}", help="print the version")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="Commands")
    name_given = next((word for word in given if not word.startswith("-")), None)
    try:
        module = importlib.import_module(f".{name_given}", __package__) if name_given in COMMANDS else None
    except ModuleNotFoundError as error:
        if error.name is None or error.name not in EXTRA_BY_PACKAGE:
            raise
        print(f"penstock {name_given}: {install_hint(error.name)}", file=sys.stderr)
        return 1
    for name, summary in COMMANDS.items():
        command = subparsers.add_parser(name, help=summary, description=f"{summary}.")
        if module is not None and name == name_given:
            module.add_arguments(command)
    args = parser.parse_args(given)
    assert module is not None, "argparse has rejected every other command"
    try:
        status: int = module.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, `head` for example, has enough. Python flushes stdout once more at exit: to where it cannot fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ConfigError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return 1
    except OutdatedLedger as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
