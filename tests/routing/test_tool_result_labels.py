"""Tool results as labels of the calls before them."""

from typing import Any

import pytest

from gateway.routing.tool_result_labels import tool_success_share
from gateway.values.request import Message


def tool(text: Any, is_error: object = None) -> Message:
    return Message(role="tool", content=text, is_error=is_error)


@pytest.mark.parametrize(
    "messages, success",
    [
        ([Message(role="user", content="hi")], None),
        ([tool("12 passed in 3 s")], 1.0),
        ([tool("2 failed, 12 passed")], 0.0),
        ([tool("0 errors, 3 passed")], 1.0),
        ([tool("done", True)], 0.0),
        ([tool("a file"), tool("bash: x: command not found")], 0.5),
        ([tool("")], 0.5),
        ([tool([{"type": "text", "text": "Traceback (most recent call last)"}])], 0.0),
        ([tool([1, None])], 0.5),
        ([tool("failed to"), Message(role="user", content="continue")], None),
    ],
)
def test_tool_results_label_the_calls_before_them(messages, success):
    assert tool_success_share(messages) == success
