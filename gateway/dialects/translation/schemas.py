"""Rewrites JSON schemas of tools and answers for providers that are stricter than the caller's."""

import re
from collections.abc import Callable
from typing import Any

from ...values.errors import NotTranslatable

# Keywords whose value is a schema, a list of schemas, or schemas by name (JSON Schema 2020-12).
_SCHEMA_KEYWORDS = frozenset({
    "items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames", "unevaluatedItems",
    "unevaluatedProperties", "additionalItems",
})  # fmt: skip
_LIST_KEYWORDS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems", "items"})
_NAMED_KEYWORDS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})

Schema = dict[str, Any]


def with_members(schema: Any) -> Any:
    """Return the schema with `properties` in every object and `items` in every array that lacks them.

    Both may be absent by JSON Schema. OpenAI refuses that ("object schema missing properties", "array schema missing
    items"; API error messages, 2026-11).
    """

    def complete(node: Schema) -> Schema:
        types = node.get("type")
        if isinstance(types, str) and types not in ("object", "array"):
            return node
        types = types if isinstance(types, list) else [types]
        if "object" in types and not isinstance(node.get("properties"), dict):
            node = {**node, "properties": {}}
        if "array" in types and node.get("items") is None and "prefixItems" not in node:
            node = {**node, "items": {}}
        return node

    return _rewritten(schema, complete)


# Constraints that Anthropic's structured outputs refuse (docs.anthropic.com, structured outputs, 2026-11).
_UNSUPPORTED_KEYWORDS = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "maxItems",
    "uniqueItems", "minProperties", "maxProperties",
)  # fmt: skip


def closed(schema: Any, dropped: set[str]) -> Any:
    """Return the schema of an answer as Anthropic accepts it, its objects closed; adds what is dropped to `dropped`.

    Raises NotTranslatable for objects of any keys.
    """

    def close(node: Schema) -> Schema:
        lost = {name for name in _UNSUPPORTED_KEYWORDS if name in node}
        lost |= {"minItems"} if node.get("minItems", 0) not in (0, 1) else set()
        types = node.get("type")
        if "object" in (types if isinstance(types, list) else [types]):
            open_to = node.get("additionalProperties", False)
            if isinstance(open_to, dict) and open_to:
                raise NotTranslatable("response_format", "Anthropic returns no objects of any keys")
            lost |= {"additionalProperties"} if open_to is not False else set()
            node = {**node, "additionalProperties": False}
        dropped.update(lost)
        return {name: value for name, value in node.items() if name not in lost or name == "additionalProperties"}

    return _rewritten(schema, close)


# Keywords that Anthropic refuses at the top of a tool's schema, and the keys that it accepts there (API error messages:
# "input_schema does not support oneOf, allOf, or anyOf at the top level", "Property keys should match pattern", 2026-11).
_COMBINATIONS = ("oneOf", "allOf", "anyOf")
_PROPERTY_KEY = re.compile(r"[a-zA-Z0-9_.-]{1,64}", re.ASCII)


def input_schema(parameters: Any, path: str, dropped: set[str]) -> Schema:
    """Return a tool's parameters as Anthropic accepts them; adds what is dropped to `dropped`. Raises NotTranslatable."""
    schema: Schema = {"type": "object", **(parameters or {"properties": {}})}
    properties = schema.get("properties")
    for key in properties if isinstance(properties, dict) else ():
        if not _PROPERTY_KEY.fullmatch(key):
            raise NotTranslatable(path, f"Anthropic accepts no parameter with the name '{key[:64]}'")
    combinations = [name for name in _COMBINATIONS if name in schema]
    if combinations and not properties:
        raise NotTranslatable(path, f"Anthropic accepts no '{combinations[0]}' in place of parameters")
    dropped.update(combinations)
    return {name: value for name, value in schema.items() if name not in combinations}


def _rewritten(schema: Any, rewrite: Callable[[Schema], Schema]) -> Any:
    """The schema with `rewrite` applied to each of its parts, itself where nothing changes; what is no schema stays."""
    if not isinstance(schema, dict):
        return schema
    changed = schema
    for name, value in schema.items():
        if name in _NAMED_KEYWORDS and isinstance(value, dict):
            parts: Any = {key: _rewritten(part, rewrite) for key, part in value.items()}
            is_same = all(parts[key] is part for key, part in value.items())
        elif name in _LIST_KEYWORDS and isinstance(value, list):
            parts = [_rewritten(part, rewrite) for part in value]
            is_same = all(new is part for new, part in zip(parts, value, strict=True))
        elif name in _SCHEMA_KEYWORDS and isinstance(value, dict):
            parts = _rewritten(value, rewrite)
            is_same = parts is value
        else:
            continue
        if not is_same:
            changed = {**changed, name: parts}
    return rewrite(changed)
