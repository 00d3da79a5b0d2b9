"""The provider's own words and code, in the shapes of error bodies."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.error_body import error_object

CONTEXT = "This model's maximum context length is 4096 tokens."
# (body, message, code)
BODIES = {
    "OpenAI": ({"error": {"message": "m", "type": "t", "param": "p", "code": "c"}}, "m", "c"),
    "Anthropic": ({"type": "error", "error": {"type": "invalid_request_error", "message": "m"}}, "m", None),
    "a text": ({"error": "m"}, "m", None),
    "a name beside the words": ({"error": "invalid_request", "message": "m"}, "m", None),
    # OAuth (RFC 6749).
    "a name beside its description": ({"error": "invalid_grant", "error_description": "m"}, "m", None),
    # vLLM before 0.10, Mistral.
    "the error itself": ({"object": "error", "message": CONTEXT, "type": "BadRequestError", "param": None, "code": 400}, CONTEXT, 400),
    "an error with the code of context overflow": (
        {"object": "error", "message": CONTEXT, "code": "context_length_exceeded"}, CONTEXT, "context_length_exceeded",
    ),
    # Cohere (docs.cohere.com, errors, 2026).
    "a message alone": ({"message": "m", "id": "x"}, "m", None),
    # AWS.
    "a message in upper case": ({"__type": "ValidationException", "Message": "m"}, "m", None),
    # FastAPI (fastapi.tiangolo.com, handling errors, 2026).
    "a detail": ({"detail": "m"}, "m", None),
    "details with their places": (
        {"detail": [{"loc": ["body", "messages"], "msg": "field required", "type": "value_error"}]}, "body.messages: field required",
        None,
    ),
    "several details": (
        {"detail": [{"loc": ["body", "a"], "msg": "x"}, {"loc": ["body", "b", 0], "msg": "y"}]}, "body.a: x; body.b.0: y", None,
    ),
    "a detail that is an error": ({"detail": {"error": {"message": "m", "code": "c"}}}, "m", "c"),
    # Google (cloud.google.com, API design, errors, 2026).
    "a list": ([{"error": {"code": 400, "message": "m", "status": "INVALID_ARGUMENT"}}], "m", 400),
    # Cloudflare (developers.cloudflare.com, API, 2026).
    "errors": ({"success": False, "errors": [{"code": 5004, "message": "m"}], "messages": []}, "m", 5004),
    # RFC 9457.
    "problem details": ({"type": "about:blank", "title": "Bad Request", "status": 400, "detail": "m"}, "m", None),
    # Apigee.
    "a fault": ({"fault": {"faultstring": "m", "detail": {"errorcode": "x"}}}, "m", None),
    # OpenRouter (openrouter.ai/docs, errors, 2026).
    "the words of the provider behind": (
        {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": json.dumps({"error": {"message": "m"}})}}},
        "Provider returned error: m", 400,
    ),
    "plain words of the provider behind": (
        {"error": {"message": "Provider returned error", "metadata": {"raw": "m"}}}, "Provider returned error: m", None,
    ),
    "words in an object": ({"error": {"message": {"message": "m"}, "code": "c"}}, "m", "c"),
    "the words of an error whose code is beside it": ({"code": "c", "error": {"message": "m"}}, "m", "c"),
    "a text of JSON": ("m", "m", None),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_words_and_code_are_found(name):
    body, message, code = BODIES[name]
    error = error_object(json.dumps(body).encode())
    assert (error.get("message"), error.get("code")) == (message, code)


@pytest.mark.parametrize(
    "body, error",
    [
        (b"", {}),
        (b"[]", {}),
        (b"{}", {}),
        (b"7", {}),
        (b"<html><body>Bad gateway</body></html>", {}),
        (b'{"error": {}}', {}),
        (b'{"error": {"code": "c"}}', {"code": "c"}),
        (b"{not json", {}),
        (b"upstream connect error", {"message": "upstream connect error"}),
        (b"[" * 2000, {}),
    ],
)
def test_a_body_without_words_has_none(body, error):
    assert error_object(body) == error


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["error", "errors", "detail", "message", "msg", "metadata", "raw", "loc"]), inner
        )
    ),
)


@given(JSON_VALUES)
def test_any_document_is_read(document):
    error = error_object(json.dumps(document).encode())
    assert isinstance(error.get("message", ""), str)
