"""`penstock COMMAND`: the table of commands.

A command's module is imported when it is chosen and not before: `serve` must start fast and carry no client library
that only the demo needs. This is the one place where a module is loaded by name.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from .. import __version__
from ..values.errors import ConfigError

COMMANDS = {
    "serve": "run the gateway",
    "check": "check a routing file: every mistake at once",
    "sessions": "see sessions, let stopped ones go on, end them, label them",
    "explain": "show where a request went and why, and its footprint line by line",
    "export": "print what was spent, per task type or another group",
    "eval": "try the loop guard on recorded sessions, the router on labelled prompts, beside published rules",
    "learn": "train the scorer, fit quality floors to the labels of own traffic",
    "demo": "watch agents run through a gateway in front of two simulated providers",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 for what went wrong, 2 for wrong usage."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="penstock", description="Cost-and-carbon aware gateway for AI agents.")
    parser.add_argument("--version", action="version", version=f"penstock {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((word for word in given if not word.startswith("-")), None)
    module = importlib.import_module(f".{chosen}", __package__) if chosen in COMMANDS else None
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if module is not None and name == chosen:
            module.add_arguments(command)
    parsed = parser.parse_args(given)
    assert module is not None, "argparse has refused every other word"
    try:
        status: int = module.run(parsed)
    except ConfigError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
