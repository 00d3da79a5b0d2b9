"""The smallest value that a JSON schema accepts, always the same one."""

from collections.abc import Mapping
from typing import Any

# Below this depth a recursive schema ends with an empty value.
_DEPTH_MAX = 16
_TEXT = "text"
# Examples of the formats that OpenAI's and Anthropic's structured outputs name.
_FORMAT_EXAMPLES = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "a@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def minimal_instance(schema: Any) -> Any:
    """A value valid by the schema: only required properties, the first choices."""
    return _instance_of(schema, schema, 0)


def _instance_of(schema: Any, root: Any, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > _DEPTH_MAX:
        return {}
    if isinstance(schema.get("$ref"), str):
        return _instance_of(_resolve_reference(schema["$ref"], root), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf"):
        if schema.get(choice):
            return _instance_of(schema[choice][0], root, depth + 1)
    if schema.get("allOf"):
        return _all_of_instance(schema, root, depth)
    return _instance_of_type(schema, root, depth)


def _resolve_reference(reference: str, root: Any) -> Any:
    """The target of `#/$defs/x`; None for a reference outside the document."""
    target = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            target = target.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
    return target


def _all_of_instance(schema: Mapping[str, Any], root: Any, depth: int) -> Any:
    parts = [_instance_of(part, root, depth + 1) for part in schema["allOf"]]
    own = {name: value for name, value in schema.items() if name != "allOf"}
    if "properties" in own or "type" in own:
        parts.append(_instance_of(own, root, depth + 1))
    if all(isinstance(part, dict) for part in parts):
        return {name: value for part in parts for name, value in part.items()}
    return parts[0]


def _instance_of_type(schema: Mapping[str, Any], root: Any, depth: int) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind == "string":
        return _string(schema)
    if kind in ("integer", "number"):
        return _number(schema)
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    if kind == "array":
        items = [_instance_of(item, root, depth + 1) for item in schema.get("prefixItems") or ()]
        while len(items) < (schema.get("minItems") or 0):
            items.append(_instance_of(schema.get("items"), root, depth + 1))
        return items
    return _object(schema, root, depth)


def _object(schema: Mapping[str, Any], root: Any, depth: int) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    required = schema.get("required") or ()
    return {name: _instance_of(properties.get(name), root, depth + 1) for name in required}


def _string(schema: Mapping[str, Any]) -> str:
    text = _FORMAT_EXAMPLES.get(schema.get("format") or "", _TEXT)
    shortest, longest = schema.get("minLength") or 0, schema.get("maxLength")
    return text.ljust(shortest, "x")[:longest]


def _number(schema: Mapping[str, Any]) -> int | float:
    step = schema.get("multipleOf") or 1
    least = schema.get("minimum")
    if least is None and schema.get("exclusiveMinimum") is not None:
        least = schema["exclusiveMinimum"] + step
    if least is not None:
        return -(-least // step) * step if least % step else least  # type: ignore[no-any-return]
    most = schema.get("maximum")
    if most is None and schema.get("exclusiveMaximum") is not None:
        most = schema["exclusiveMaximum"] - step
    return step if most is None or most >= step else most
