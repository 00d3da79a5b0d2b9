"""Writes what is generated: the JSON Schema of routing.yaml and docs/configuration.md. `make docs`; tests check for drift."""

import json
import typing
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from gateway.config import schema
from gateway.config.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent
INTRODUCTION = """# Configuration

Written by `make docs` from the code.

## Process settings

Environment variables. An unknown `PENSTOCK_*` name is a mistake, except `PENSTOCK_KEY_*`, which may hold callers' keys.
No `.env` file is read unless `PENSTOCK_ENV_FILE` names one.

| variable | default | meaning |
|---|---|---|
"""
ROUTING = """
## routing.yaml

Read as YAML 1.2: only `true` and `false` are booleans, `NO` is text. Keys given twice, anchors and unknown keys are
mistakes. Secrets stand there by reference only: `{env: NAME}` or `{file: path}`. Editors that know JSON Schema read
[config/routing.schema.json](../config/routing.schema.json).
"""


def json_schema() -> str:
    """The schema of the whole document."""
    return json.dumps(schema.RoutingConfig.model_json_schema(), indent=2) + "\n"


def configuration() -> str:
    """docs/configuration.md."""
    rows = [
        f"| `{PREFIX}{name.upper()}` | {_default(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return INTRODUCTION + "\n".join(rows) + "\n" + ROUTING + "".join(_section(model) for model in _models())


def _models() -> list[type[BaseModel]]:
    found = [one for one in vars(schema).values() if isinstance(one, type) and issubclass(one, schema._StrictConfig)]
    named = [one for one in found if one is not schema._StrictConfig]
    return [schema.RoutingConfig, *(one for one in named if one is not schema.RoutingConfig)]


def _section(model: type[BaseModel]) -> str:
    title = "the file" if model is schema.RoutingConfig else model.__name__
    rows = [
        f"| `{name}` | {_type(field.annotation)} | {'required' if field.is_required() else _default(field.get_default(call_default_factory=True))} |"
        for name, field in model.model_fields.items()
    ]
    return (
        f"\n### {title}\n\n{(model.__doc__ or '').strip()}\n\n| key | is | default |\n|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def _default(value: object) -> str:
    if value is PydanticUndefined or value is None:
        return "–"
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, (list, dict)) and not value:
        return "empty"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"`{text}`"


def _type(annotation: object) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{one}`" for one in inner)
    if origin is typing.Annotated:
        return _type(inner[0])
    if origin is list:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return f"name: {_type(inner[1])}"
    parts = [_type(one) for one in inner if one is not type(None)]
    if parts:
        return " or ".join(parts)
    names = {"str": "text", "bool": "true or false", "int": "whole number", "Decimal": "number"}
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, f"[{name}](#{name.lower()})")


if __name__ == "__main__":
    (ROOT / "config" / "routing.schema.json").write_text(json_schema())
    (ROOT / "docs" / "configuration.md").write_text(configuration())
