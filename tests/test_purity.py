"""From the pipeline down no module reads a clock or the environment; contracts and the map name every package."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GATEWAY = ROOT / "gateway"
PURE_PACKAGES = ("pipeline", "routing", "sessions", "dialects", "providers", "accounting", "carbon", "values")
# Calls that read the time of the machine, and attributes of `os` that read the environment.
CLOCK_CALLS = {"now", "today", "utcnow"}
CLOCK_CLASSES = {"datetime", "date"}
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb"}
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]


def packages() -> set[str]:
    """Packages and modules directly in gateway/."""
    names = {entry.parent.name for entry in GATEWAY.glob("*/__init__.py")}
    return names | {entry.stem for entry in GATEWAY.glob("*.py")} - {"__init__"}


def layers() -> list[set[str]]:
    """The layers of the import contract, from the top."""
    (contract,) = (contract for contract in CONTRACTS if contract["type"] == "layers")
    return [{name.strip() for name in layer.split("|")} for layer in contract["layers"]]


def impure_reads(source: str) -> list[str]:
    """The places in a module that read the time or the environment, as `line: code`."""
    tree = ast.parse(source)
    imported: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "datetime") and not node.level:
            imported |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    return [f"{line}: {code}" for line, code in sorted(_reads(tree, imported))]


def _reads(tree: ast.AST, imported: dict[str, tuple[str, str]]) -> set[tuple[int, str]]:
    classes = CLOCK_CLASSES | {name for name, (module, original) in imported.items() if original in CLOCK_CLASSES}
    environment = {name for name, (module, original) in imported.items() if original in ENVIRONMENT}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT:
            found.add((node.lineno, ast.unparse(node)))
        elif isinstance(node, ast.Attribute) and node.attr in CLOCK_CALLS:
            # The last name before the method: `datetime.now`, `datetime.datetime.now`, an alias of the class.
            owner = ast.unparse(node.value).rpartition(".")[2]
            if owner in classes:
                found.add((node.lineno, ast.unparse(node)))
        elif isinstance(node, ast.Name) and node.id in environment:
            found.add((node.lineno, node.id))
    return found


PURE_MODULES = sorted(path for package in PURE_PACKAGES for path in (GATEWAY / package).rglob("*.py"))


@pytest.mark.parametrize("path", PURE_MODULES, ids=lambda path: str(path.relative_to(GATEWAY)))
def test_a_pure_module_reads_neither_clock_nor_environment(path):
    assert impure_reads(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source, found",
    [
        ("from datetime import datetime\nx = datetime.now(UTC)", ["2: datetime.now"]),
        ("import datetime\nx = datetime.datetime.utcnow()", ["2: datetime.datetime.utcnow"]),
        ("from datetime import date as day\nx = day.today()", ["2: day.today"]),
        ("from datetime import datetime\nclock = datetime.now", ["2: datetime.now"]),
        ("import os\nx = os.environ['A']", ["2: os.environ"]),
        ("import os as o\nx = o.getenv('A')", ["2: o.getenv"]),
        ("from os import environ as e\nx = e['A']", ["2: e"]),
        ("def f():\n    import datetime\n    return datetime.date.today()", ["3: datetime.date.today"]),
        ("x = clock.now()\ny = self._clock.now()", []),
        ("from datetime import UTC, datetime\nx = datetime.fromtimestamp(0, UTC)", []),
    ],
    ids=[
        "datetime.now", "the module's class", "an alias", "a reference", "os.environ", "getenv", "an imported environ",
        "within a function", "a clock of ours", "a given time",
    ],
)  # fmt: skip
def test_clock_and_environment_are_found_however_they_are_spelled(source, found):
    assert impure_reads(source) == found


def test_every_package_is_in_exactly_one_layer():
    named = [name for layer in layers() for name in layer]
    assert set(named) == packages() and len(named) == len(set(named))


def test_every_package_from_the_pipeline_down_is_under_the_purity_contract():
    (contract,) = (contract for contract in CONTRACTS if contract["name"].startswith("Purity"))
    (first,) = (index for index, layer in enumerate(layers()) if layer == {"pipeline"})
    below = {name for layer in layers()[first:] for name in layer}
    assert set(PURE_PACKAGES) == below
    assert set(contract["source_modules"]) == {f"gateway.{name}" for name in below}


@pytest.mark.parametrize(
    "module", ["aiohttp", "asyncio", "logging", "os", "random", "secrets", "socket", "time", "uuid"]
)
def test_the_purity_contract_forbids_io_clock_randomness_and_logging(module):
    (contract,) = (contract for contract in CONTRACTS if contract["name"].startswith("Purity"))
    assert module in contract["forbidden_modules"]


def test_the_map_of_the_architecture_names_each_package_once():
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    map_ = text.partition("## Map")[2].partition("```\n")[2].partition("```")[0]
    named = [re.split(r"[/.\s]", line)[0] for line in map_.splitlines()]
    assert sorted(named) == sorted(packages())


def test_the_layers_of_the_architecture_are_those_of_the_contract():
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    drawn = text.partition("## Imports")[2].partition("```\n")[2].partition("```")[0]
    assert [set(re.sub(r"\s{2,}.*", "", line).split(" | ")) for line in drawn.splitlines()] == layers()
