"""Verifier: cheap checks that a small model's complete response suffices. Pure.

Only what can be checked without another model: truncation, refusals, empty responses, the requested schema, tool calls
against the offered tools and their schemas, token log-probabilities.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from ..dialects.output_constraints import OutputConstraints
from ..dialects.parsed_answer import ParsedAnswer

# Characters searched for a refusal, from the start.
_REFUSAL_CHARS = 300
_REFUSAL_PATTERN = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i (?:can(?:not|'t)|could ?n[o']t) (?:help|assist|do that|determine|answer|find|complete)"
    r"|as an ai\b|i do(?:n't| not) (?:know|have enough)|unable to (?:answer|complete|determine))",
    re.IGNORECASE,
)
# Mean log-probability margin (nats) between the chosen token and the next best below which a response is doubtful: both
# are equally probable at 0, the chosen one e times more at 1.
_MARGIN_NATS = 1.0


def failed_checks(answer: ParsedAnswer, constraints: OutputConstraints) -> tuple[str, ...]:
    """The checks that the response failed, each in a few words; () if it passed all."""
    if answer.truncated and constraints.has_output_limit:
        # A larger model would be truncated at the caller's limit too, and a truncated response fits no schema.
        return ()
    failed = []
    if answer.truncated:
        failed.append("truncated")
    if answer.refused or (not answer.calls and _REFUSAL_PATTERN.search(answer.text[:_REFUSAL_CHARS])):
        failed.append("refusal")
    if not answer.text.strip() and not answer.calls and not answer.has_other_content:
        failed.append("empty response")
    elif constraints.schema is not None and not answer.calls and answer.text.strip():
        failed.extend(_schema_violations(answer.text, constraints.schema, "response"))
    if constraints.tool_call_required and not answer.calls and not answer.has_other_content:
        failed.append("no tool call")
    for name, arguments in answer.calls:
        if constraints.tools and name not in constraints.tools:
            failed.append("call of a tool not offered")
        else:
            failed.extend(_schema_violations(arguments or "{}", constraints.tools.get(name, {}), "tool call"))
    if answer.logprob_margin_nats is not None and answer.logprob_margin_nats < _MARGIN_NATS:
        failed.append("low token confidence")
    return tuple(dict.fromkeys(failed))


def _schema_violations(text: str, schema: Mapping[str, Any], what: str) -> list[str]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return [f"{what} is not JSON"]
    return [] if matches_schema(value, schema) else [f"{what} does not match its schema"]


_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
# Schemas nest and refer to themselves; deeper levels are not checked.
_SCHEMA_DEPTH_MAX = 16


def matches_schema(value: Any, schema: Any, depth: int = 0) -> bool:
    """Whether a value matches a schema's types, required fields, enums and items.

    Other keywords (references, combinations, formats) are not checked.
    """
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
