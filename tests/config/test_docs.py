"""What is written about the code is true of the code."""

import re
from pathlib import Path

import pytest

from gateway.values import errors
from tests import docs_tables

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    "path, written",
    [("config/routing.schema.json", docs_tables.json_schema), ("docs/configuration.md", docs_tables.configuration)],
)
def test_generated_files_are_up_to_date(path, written):
    assert (ROOT / path).read_text() == written(), "run make docs"


def test_every_error_code_is_documented():
    text = (ROOT / "docs/errors.md").read_text()
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.PenstockError)]
    internal = {errors.CallerDisconnected.code, errors.ConfigError.code}
    codes = {one.code for one in classes} - internal
    files = (path for path in (ROOT / "gateway").rglob("*.py") if "simulator" not in path.parts)
    sources = "".join(path.read_text() for path in files)
    codes |= set(re.findall(r'code="([a-z_]+)"', sources)) - {"expired"}
    assert {code for code in codes if f"`{code}`" not in text} == set()


def test_every_metric_is_documented():
    text = (ROOT / "docs/metrics.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "gateway").rglob("*.py"))
    names = set(re.findall(r'"(penstock_[a-z_]+[a-z])"', sources)) | {
        "penstock_budget_spent_ratio",
        "penstock_budget_held_ratio",
    }
    assert {name for name in names if name not in text} == set()


def test_every_make_target_that_is_named_exists():
    makefile = (ROOT / "Makefile").read_text()
    named = set()
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")):
        named |= set(re.findall(r"(?:`|^)make ([a-z]+)", path.read_text(), re.MULTILINE))
    assert {one for one in named if not re.search(rf"^{one}:", makefile, re.MULTILINE)} == set()


def test_links_between_documents_lead_somewhere():
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} -> {target}"
