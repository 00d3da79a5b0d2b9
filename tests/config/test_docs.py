"""The documents agree with the code."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from gateway.config import schema
from gateway.config.load import parse
from gateway.config.settings import Settings
from gateway.values import errors
from tests import docs_tables, losses_tables

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    "path, written",
    [
        ("config/routing.schema.json", docs_tables.json_schema),
        ("docs/configuration.md", docs_tables.configuration),
        ("docs/dialects.md", losses_tables.written),
    ],
)
def test_generated_files_are_up_to_date(path, written):
    assert (ROOT / path).read_text() == written(), "run make docs"


def test_every_config_key_and_variable_is_described():
    sections = [model for model in vars(schema).values() if isinstance(model, type) and issubclass(model, BaseModel)]
    keys = {(model.__name__, name): field for model in sections for name, field in model.model_fields.items()}
    keys |= {("Settings", name): field for name, field in Settings.model_fields.items()}
    assert {place for place, field in keys.items() if not field.description} == set()


def test_the_example_in_the_configuration_reference_loads():
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/configuration.md").read_text(), re.DOTALL)
    snapshot, _ = parse(example, "example.yaml", {}, need_secrets=False)
    assert set(snapshot.routes) == {"auto", "gpt-5"}


def test_links_within_the_configuration_reference_lead_to_a_heading():
    text = (ROOT / "docs/configuration.md").read_text()
    headings = {title.lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= headings


def test_every_error_code_is_documented():
    text = (ROOT / "docs/errors.md").read_text()
    classes = [
        item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, errors.PenstockError)
    ]
    internal = {errors.CallerDisconnected.code, errors.ConfigError.code}
    codes = {item.code for item in classes} - internal
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


def test_every_make_target_in_the_documents_exists():
    makefile = (ROOT / "Makefile").read_text()
    named = set()
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")):
        named |= set(re.findall(r"(?:`|^)make ([a-z-]+)", path.read_text(), re.MULTILINE))
    assert {target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()


def test_links_between_documents_lead_somewhere():
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} -> {target}"
