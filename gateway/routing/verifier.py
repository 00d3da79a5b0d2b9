"""A cheap look at a small model's whole answer: does anything in it say that it does not suffice? Pure.

Only what can be told without another model: it was cut or withheld, it refuses or gives up, it is not in the form that
was asked for, it calls a tool that was not offered or not as its schema says, its tokens were chosen with hesitation.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from ..dialects.output_constraints import OutputConstraints
from ..dialects.parsed_answer import ParsedAnswer

# Characters read for the words of a refusal; they stand at the beginning.
_REFUSAL_CHARS = 300
_REFUSAL_PATTERN = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i (?:can(?:not|'t)|could ?n[o']t) (?:help|assist|do that|determine|answer|find|complete)"
    r"|as an ai\b|i do(?:n't| not) (?:know|have enough)|unable to (?:answer|complete|determine))",
    re.IGNORECASE,
)
# Below this mean margin (nats) between the chosen token and the next best an answer was guessed more than known: half of
# the probability mass lies elsewhere at 0, e times more on the chosen one at 1.
_MARGIN_NATS = 1.0


def doubts(said: ParsedAnswer, asked: OutputConstraints) -> tuple[str, ...]:
    """Why the answer may not suffice, in few words each; () where nothing speaks against it."""
    if said.truncated and asked.has_output_limit:
        # Where the caller set the limit a larger model would be cut as well, and what was cut has no form.
        return ()
    found = []
    if said.truncated:
        found.append("cut off")
    if said.refused or (not said.calls and _REFUSAL_PATTERN.search(said.text[:_REFUSAL_CHARS])):
        found.append("refuses")
    if not said.text.strip() and not said.calls and not said.has_other_content:
        found.append("says nothing")
    elif asked.schema is not None and not said.calls and said.text.strip():
        found.extend(_schema_violations(said.text, asked.schema, "answer"))
    if asked.tool_call_required and not said.calls and not said.has_other_content:
        found.append("no tool call")
    for name, arguments in said.calls:
        if asked.tools and name not in asked.tools:
            found.append("calls a tool that was not offered")
        else:
            found.extend(_schema_violations(arguments or "{}", asked.tools.get(name, {}), "call"))
    if said.logprob_margin_nats is not None and said.logprob_margin_nats < _MARGIN_NATS:
        found.append("hesitates")
    return tuple(dict.fromkeys(found))


def _schema_violations(text: str, schema: Mapping[str, Any], what: str) -> list[str]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return [f"{what} is not JSON"]
    return [] if matches_schema(value, schema) else [f"{what} does not fit its schema"]


_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
# Schemas refer and nest; deeper than this nobody writes.
_SCHEMA_DEPTH_MAX = 16


def matches_schema(value: Any, schema: Any, depth: int = 0) -> bool:
    """Whether a value has the types, required fields, enums and items that a JSON Schema asks for. What the schema says
    beyond these (references, combinations, formats) is not held against the value."""
    if not isinstance(schema, Mapping) or depth > _SCHEMA_DEPTH_MAX:
        return True
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if isinstance(kinds, list) and not any(_has_type(value, kind) for kind in kinds):
        return False
    allowed = schema.get("enum")
    if isinstance(allowed, list) and value not in allowed:
        return False
    if isinstance(value, dict):
        required, properties = schema.get("required"), schema.get("properties")
        if isinstance(required, list) and any(isinstance(name, str) and name not in value for name in required):
            return False
        properties = properties if isinstance(properties, Mapping) else {}
        closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
        if closed and not properties.keys() >= value.keys():
            return False
        return all(matches_schema(value[name], part, depth + 1) for name, part in properties.items() if name in value)
    if isinstance(value, list):
        return all(matches_schema(item, schema.get("items"), depth + 1) for item in value)
    return True


def _has_type(value: Any, kind: Any) -> bool:
    if isinstance(value, bool) and kind in ("integer", "number"):
        return False
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return not isinstance(kind, str) or kind not in _JSON_TYPES or isinstance(value, _JSON_TYPES[kind])
