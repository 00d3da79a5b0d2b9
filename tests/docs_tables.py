"""Writes docs/configuration.md and the JSON Schema of routing.yaml from the code. `make docs`; a test checks for drift."""

import inspect
import json
import typing
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import BaseModel, StringConstraints
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticUndefined

from gateway.config import schema
from gateway.config.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent
_CLASS_SUFFIX = "Config"
_BOUND_KEYS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_TYPE_NAMES = {str: "text", bool: "true or false", int: "whole number", Decimal: "number"}


_INTRODUCTION = """# Configuration

<!-- Written by `make docs` from gateway/config/schema.py, settings.py and tests/docs_tables.py; edit those. -->

`routing.yaml` is the policy of a gateway: who may call it, which models it uses at which providers, how it chooses between
them, and the budgets, caps and energy rules that apply. It is read once, at start; a changed file takes effect with the
next start (SIGHUP is logged and changes nothing). How the process itself runs (addresses, folders, shared store) is set by
[environment variables](#environment-variables).

`penstock check FILE` reports every problem at once as `file:line:column: what is wrong, what would be right`. Editors that
support JSON Schema complete and check the file with [config/routing.schema.json](../config/routing.schema.json).

## Example

A small file that is complete. [config/routing.yaml](../config/routing.yaml) shows more.

```yaml
version: 1
keys:
  - {id: my-agent, team: my-team, secret: {env: PENSTOCK_KEY_MY_AGENT}}
providers:
  openai: {base_url: https://api.openai.com/v1, api_key: {env: OPENAI_API_KEY}}
deployments:
  small: {provider: openai, model: gpt-5-mini, tier: small, zone: USA}
  frontier: {provider: openai, model: gpt-5, tier: frontier, zone: USA}
routes:
  auto: {candidates: [small, frontier], auto: true}   # callers send "model": "auto"; the tier is chosen by complexity
  gpt-5: {candidates: [frontier]}
budgets:
  team-per-month: {scope: {team: my-team}, limit: {usd: 300}, window: month}
sessions:
  caps: {calls: 200, usd: 5, minutes: 120}            # of one agent's run, sub-agents included
```

```
export PENSTOCK_KEY_MY_AGENT=$(openssl rand -hex 24) OPENAI_API_KEY=sk-...
penstock check routing.yaml && penstock serve routing.yaml
```

## Keys of routing.yaml

One table for each section; the default applies where a key is not given.
"""
_VARIABLES = """## Environment variables
"""
_EDGE_CASES = """## Edge cases

- **YAML.** Read as YAML 1.2: only `true` and `false` are booleans; `NO`, `on` and `yes` are text. Numbers are exact decimals.
  Duplicate keys, unknown keys, anchors and merge keys are problems. Text that looks like a number needs quotes: `"2025"`.
- **Names** (type *name*) have 1 to 64 letters, digits, `.`, `_` or `-`, and begin with a letter or digit. Routes and models
  may also contain `:`, `/` and `@`. A route `gpt-*` serves every model name that begins so and has no route of its own.
- **Secrets** are never written into the file, only references: `{env: NAME}` or `{file: path}`. `penstock check` does not
  need them unless `--secrets` is given; `penstock serve` does. White space around a value is removed. A secret of a caller
  or of the webhook with fewer than 16 characters is a problem for `check`, and a warning for `serve`. Messages show
  neither secrets nor what looks like one, such as `{env: sk-...}`: they name the place in the file.
- **Amounts** in US dollars have at most nine decimals. A limit of 0 refuses everything; a limit that is not given is none.
- **Reserved names.** `budgets` may not use `penstock-shadow` or the names of session caps (`session-usd`, `each-calls`, ...).
- **Several organizations.** With more than one, every budget belongs to one of them: its scope needs `org`, `team` or `key`,
  if only as `"*"`. All keys of a team have the same organization.
- **Unknown prices and model sizes.** A deployment without a price is unpriced, not free: budgets and caps in dollars do not
  admit it. One without a model size has an unknown footprint: budgets in Wh and gCO2e do not admit it. `penstock check`
  notes both.
- **Price changes** take effect at 00:00 UTC of their day, without a restart.
- **Rules** of `energy`, `quality` and `loop_guard` take every key that they do not give from their section. In the ladder of
  the loop guard a default that is not below a later step of the file is left out.
- **Environment variables.** An unknown `PENSTOCK_*` name is a problem, except `PENSTOCK_KEY_*`, which may hold callers'
  keys, and `PENSTOCK_URL`, which the commands use. No `.env` file is read unless `PENSTOCK_ENV_FILE` names one.
"""


class _JsonSchema(GenerateJsonSchema):
    """Pydantic's generator with decimals as numbers and without a title for every key."""

    def decimal_schema(self, schema: Any) -> dict[str, Any]:
        """A number; its bounds follow from the field."""
        return {"type": "number"}

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Titles repeat the keys."""
        return False


def json_schema() -> str:
    """The JSON Schema of the whole document."""
    document = _tidy(schema.RoutingConfig.model_json_schema(schema_generator=_JsonSchema))
    return json.dumps({"$schema": _JsonSchema.schema_dialect, **document, "title": "routing.yaml"}, indent=2) + "\n"


def _tidy(node: Any) -> Any:
    """The schema with section names for class names, JSON Schema's names of bounds, and defaults as numbers."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if isinstance(node, str):
        return _section_name(node) if node.startswith("#/$defs/") else node
    if not isinstance(node, dict):
        return node
    if node.get("type") == "number":
        node = {_BOUND_KEYS.get(key, key): _number(value) for key, value in node.items()}
    if any(option.get("type") == "number" for option in node.get("anyOf", ())):
        node = {key: _number(value) if key == "default" else value for key, value in node.items()}
    if isinstance(node.get("default"), dict) and node["default"]:
        # The defaults of a section are those of its keys.
        node = {key: value for key, value in node.items() if key != "default"}
    names = {key: _section_name(key) for key in node} if _is_definitions(node) else {}
    tidy = {names.get(key, key): _tidy(value) for key, value in node.items()}
    if isinstance(tidy.get("title"), str):
        tidy["title"] = _section_name(tidy["title"])
    if isinstance(tidy.get("description"), str):
        tidy["description"] = _one_line(tidy["description"])
    return tidy


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _is_definitions(node: dict[str, Any]) -> bool:
    return bool(node) and all(key.endswith(_CLASS_SUFFIX) for key in node)


def _number(value: Any) -> Any:
    """Decimals, which pydantic writes as text, as numbers."""
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        return value
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _section_name(class_name: str) -> str:
    return class_name.removesuffix(_CLASS_SUFFIX)


def configuration() -> str:
    """docs/configuration.md: what the file does and an example, every key, every variable, edge cases."""
    variables = [
        (f"`{PREFIX}{name.upper()}`", _default(field), _one_line(field.description))
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(
        [
            _INTRODUCTION,
            *(_section(model, paths) for model, paths in _sections().items()),
            _VARIABLES,
            _table(("variable", "default", "description"), variables),
            _EDGE_CASES,
        ]
    )


def _sections() -> dict[type[BaseModel], list[str]]:
    """Every section with the places in the file where it is used, in the order of the file."""
    places: dict[type[BaseModel], list[str]] = {}
    for model, path in _walk(schema.RoutingConfig, ""):
        places.setdefault(model, []).append(path)
        for base in _bases(model):
            places.setdefault(base, [])
    return places


def _walk(model: type[BaseModel], path: str) -> Iterator[tuple[type[BaseModel], str]]:
    yield model, path
    for name, field in model.model_fields.items():
        inner, suffix = _inner_model(field.annotation)
        if inner is not None:
            yield from _walk(inner, f"{path}.{name}{suffix}".removeprefix("."))


def _inner_model(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The section that a key holds, and how a path continues to it: `[]` for lists, `.NAME` for mappings."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    own_suffix = {list: "[]", dict: ".NAME"}.get(origin, "")
    for argument in arguments:
        inner, suffix = _inner_model(argument)
        if inner is not None:
            return inner, own_suffix + suffix
    return None, ""


def _bases(model: type[BaseModel]) -> list[type[BaseModel]]:
    """Sections that this one extends."""
    return [base for base in model.__bases__ if issubclass(base, BaseModel) and base.model_fields]


def _section(model: type[BaseModel], paths: Sequence[str]) -> str:
    is_root = model is schema.RoutingConfig
    title = "Top level" if is_root else _section_name(model.__name__)
    lines = [f"### {title}\n", _one_line(model.__doc__) + "\n"]
    if paths and not is_root:
        lines.append(f"At {', '.join(f'`{path}`' for path in paths)}.\n")
    lines += [f"All keys of {_link(base)}, and:\n" for base in _bases(model)]
    own = inspect.get_annotations(model)
    rows = [
        (
            f"`{name}`",
            _type(field.annotation, field.metadata),
            _default(field),
            _one_line(field.description),
        )
        for name, field in model.model_fields.items()
        if name in own
    ]
    lines.append(_table(("key", "type", "default", "description"), rows))
    return "\n".join(lines)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return (
        "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| --- ", "|---").replace("--- |", "---|") + "\n"
    )


def _link(model: type[BaseModel]) -> str:
    name = _section_name(model.__name__)
    return f"[{name}](#{name.lower()})"


def _default(field: FieldInfo) -> str:
    """A default as it is written in the file."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "unset"
    if isinstance(value, BaseModel):
        return "unset" if type(value) in _OPTIONAL_SECTIONS else "its defaults"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value in ([], {}, ""):
        return "empty"
    return ", ".join(f"`{item}`" for item in (value if isinstance(value, list) else [value]))


# Sections in which nothing is set unless the file sets it.
_OPTIONAL_SECTIONS = (
    schema.SessionTreeCapsConfig, schema.SessionCapsConfig, schema.FeedZonesConfig, schema.ScopeConfig,
    schema.TiersConfig, schema.NotifyConfig,
)  # fmt: skip


def _type(annotation: Any, metadata: Sequence[Any]) -> str:
    """The type of a value in words, with its range."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        inner = [part for item in arguments[1:] for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
        return _type(arguments[0], [*inner, *metadata])
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is list:
        return f"list of {_type(arguments[0], ())}"
    if origin is dict:
        return f"mapping of name to {_type(arguments[1], ())}"
    if arguments:
        return " or ".join(_type(argument, metadata) for argument in arguments if argument is not type(None))
    if issubclass(annotation, BaseModel):
        return _link(annotation)
    if any(isinstance(item, StringConstraints) and item.pattern == schema.NAME_PATTERN for item in metadata):
        return "name"
    return ", ".join(filter(None, (_TYPE_NAMES[annotation], _range(metadata, is_whole=annotation is int))))


def _range(metadata: Sequence[Any], *, is_whole: bool) -> str:
    bounds = {
        key: getattr(item, key) for item in metadata for key in _BOUND_KEYS if getattr(item, key, None) is not None
    }
    if is_whole and "gt" in bounds:
        bounds["ge"] = bounds["gt"] + 1
    low = f"{bounds['ge']:,}" if "ge" in bounds else f"above {bounds['gt']:,}" if "gt" in bounds else ""
    high = f"{bounds['le']:,}" if "le" in bounds else f"below {bounds['lt']:,}" if "lt" in bounds else ""
    if not high:
        return f"{low} or more" if "ge" in bounds else low
    if "ge" in bounds:
        return f"{low} to {high}"
    return f"{low}, {'at most ' * ('le' in bounds)}{high}".removeprefix(", ")


if __name__ == "__main__":
    (ROOT / "config" / "routing.schema.json").write_text(json_schema())
    (ROOT / "docs" / "configuration.md").write_text(configuration())
