"""The registry of dialects: every dialect parses, meters and words errors."""

import json

import pytest

from gateway.dialects import CONVERSATION_DIALECTS, DIALECTS, PARSERS
from gateway.values.errors import BadRequest, BrokenResponse
from gateway.values.plan import Refusal
from tests.dialects.test_body import MINIMAL_BODIES


def test_every_dialect_but_pass_through_has_a_parser():
    assert set(PARSERS) == set(DIALECTS) - {"passthrough"}
    assert set(PARSERS) > CONVERSATION_DIALECTS


@pytest.mark.parametrize("dialect", PARSERS)
def test_a_parsed_request_names_its_dialect_and_route(dialect):
    request = PARSERS[dialect](json.dumps({"model": "auto", **MINIMAL_BODIES[dialect]}).encode())
    assert (request.dialect, request.model, request.stream) == (dialect, "auto", False)
    assert len(request.messages) == len(request.sizes) > 0


@pytest.mark.parametrize("dialect", DIALECTS)
def test_errors_and_refusals_are_json_with_the_message(dialect):
    error = DIALECTS[dialect].error_response(BadRequest("Wrong field.", param="n"))
    assert error.status == 400 and error.headers["content-type"] == "application/json"
    assert (json.loads(error.body)["error"]["message"], json.loads(error.body)["error"]["param"]) == (
        "Wrong field.",
        "n",
    )
    refusal = DIALECTS[dialect].refusal_response(Refusal(code="cap_exceeded", message="Cap reached.", status=403))
    assert refusal.status == 403 and refusal.headers["x-should-retry"] == "false"
    assert json.loads(refusal.body)["error"]["message"] == "Cap reached."


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_error_event_is_read_by_the_meter_of_its_dialect(dialect):
    body = json.dumps({"model": "m", **MINIMAL_BODIES["chat"]}).encode()
    meter = DIALECTS[dialect].stream_meter(PARSERS["chat"](body))
    event = DIALECTS[dialect].error_event(BrokenResponse("The provider's response ended early."))
    assert meter.feed(event).startswith((b"data: ", b"event: "))
    assert meter.error["message"] == "The provider's response ended early."
