"""The form that a request prescribes for its answer, in every dialect."""

import json
from typing import Any

import pytest

from gateway.dialects import PARSERS
from gateway.dialects.output_constraints import OutputConstraints, parse_output_constraints

CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def constraints(**fields: Any) -> OutputConstraints:
    return parse_output_constraints(PARSERS["chat"](json.dumps({**CHAT, **fields}).encode()))


@pytest.mark.parametrize(
    "dialect, body",
    [
        ("chat", b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":{"name":"lookup","parameters":{"type":"object"}}}],"tool_choice":"required","response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object"}}}}'),
        ("messages", b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"x"}],"tools":[{"name":"lookup","input_schema":{"type":"object"}}],"tool_choice":{"type":"any"},"output_config":{"format":{"type":"json_schema","schema":{"type":"object"}}}}'),
        ("responses", b'{"model":"m","input":"x","tools":[{"type":"function","name":"lookup","parameters":{"type":"object"}}],"tool_choice":"required","text":{"format":{"type":"json_schema","name":"n","schema":{"type":"object"}}}}'),
    ],
)  # fmt: skip
def test_output_constraints_are_parsed_from_every_dialect(dialect, body):
    form = parse_output_constraints(PARSERS[dialect](body))
    limited = dialect == "messages"
    assert form == OutputConstraints(
        schema={"type": "object"},
        tools={"lookup": {"type": "object"}},
        tool_call_required=True,
        has_output_limit=limited,
    )


def test_a_request_without_constraints_allows_any_text():
    assert constraints() == OutputConstraints()


@pytest.mark.parametrize(
    "format_, schema",
    [
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "n"}}, {}),
        ({"type": "json_schema", "json_schema": {"schema": 7}}, {}),
        ({"type": "text"}, None),
        (7, None),
        (None, None),
    ],
    ids=["any object", "a schema that is missing", "a schema of another type", "text", "a number", "null"],
)
def test_a_format_prescribes_a_schema(format_, schema):
    assert constraints(response_format=format_).schema == schema


@pytest.mark.parametrize(
    "choice, required",
    [
        ("required", True),
        ({"type": "function", "function": {"name": "f"}}, True),
        ("auto", False),
        ("none", False),
        ({"type": 7}, False),
        (None, False),
    ],
)
def test_a_forced_tool_must_be_called(choice, required):
    assert constraints(tool_choice=choice).tool_call_required is required


def test_tools_without_a_name_or_schema_are_read_as_far_as_possible():
    tools = [
        {"type": "function", "function": {"name": "a"}},
        {"type": "function", "function": {"name": "b", "parameters": 7}},
        {"type": "function", "function": {}},
        7,
    ]
    assert constraints(tools=tools).tools == {"a": {}, "b": {}}
    assert constraints(tools="x").tools == {}


def test_a_limit_of_the_caller_is_noted():
    assert constraints(max_tokens=9).has_output_limit and not constraints().has_output_limit
