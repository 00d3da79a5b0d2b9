"""Rewrites JSON schemas of tools and answers for providers that are stricter than the caller's."""

from collections.abc import Callable, Iterator
from typing import Any

# Keywords whose value is a schema, a list of schemas, or schemas by name (JSON Schema 2020-12).
_SCHEMA_KEYWORDS = (
    "items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames", "unevaluatedItems",
    "unevaluatedProperties", "additionalItems",
)  # fmt: skip
_LIST_KEYWORDS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_NAMED_KEYWORDS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")

Schema = dict[str, Any]


def with_members(schema: Any) -> Any:
    """Return the schema with `properties` in every object and `items` in every array that lacks them.

    Both may be absent by JSON Schema. OpenAI refuses that ("object schema missing properties", "array schema missing
    items"; API error messages, 2026-11).
    """

    def complete(node: Schema) -> Schema:
        types = node.get("type")
        types = types if isinstance(types, list) else [types]
        if "object" in types and not isinstance(node.get("properties"), dict):
            node = {**node, "properties": {}}
        if "array" in types and node.get("items") is None and "prefixItems" not in node:
            node = {**node, "items": {}}
        return node

    return _rewritten(schema, complete)


def _rewritten(schema: Any, rewrite: Callable[[Schema], Schema]) -> Any:
    """The schema with `rewrite` applied to each of its parts; what is no schema stays."""
    if not isinstance(schema, dict):
        return schema
    changed = dict(_rewritten_parts(schema, rewrite))
    return rewrite({**schema, **changed} if changed else schema)


def _rewritten_parts(schema: Schema, rewrite: Callable[[Schema], Schema]) -> Iterator[tuple[str, Any]]:
    for name, value in schema.items():
        if name in _NAMED_KEYWORDS and isinstance(value, dict):
            yield name, {key: _rewritten(part, rewrite) for key, part in value.items()}
        elif name in _LIST_KEYWORDS and isinstance(value, list):
            yield name, [_rewritten(part, rewrite) for part in value]
        elif name in _SCHEMA_KEYWORDS and isinstance(value, dict):
            yield name, _rewritten(value, rewrite)
