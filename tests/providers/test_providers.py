"""The registry of providers: each reads usage and failures of any shape."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import DIALECTS
from gateway.providers import PROVIDERS
from tests.dialects.json_values import JSON_VALUES
from tests.snapshots import snapshot

SMALL = snapshot().deployments["small"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_provider_supports_a_dialect_of_the_gateway(provider):
    supported = PROVIDERS[provider].SUPPORTED_DIALECTS
    assert supported and set(supported) <= set(DIALECTS)
    assert set(supported) >= PROVIDERS[provider].OPTIONAL_DIALECTS


@pytest.mark.parametrize("provider", PROVIDERS)
@given(answer=JSON_VALUES)
def test_usage_of_any_shape_is_normalized_or_none(provider, answer):
    for document in (answer, {"usage": answer}, {"usage": {"input_tokens": 1, "iterations": answer}}):
        normalized = PROVIDERS[provider].usage_of(document)
        assert normalized is None or normalized.input + normalized.output > 0 or normalized.further_calls
        assert isinstance(PROVIDERS[provider].billed_extras_of(document), dict)


@pytest.mark.parametrize("provider", PROVIDERS)
@given(status=st.integers(300, 599), body=st.binary(max_size=30))
def test_an_error_body_of_any_shape_is_a_failure(provider, status, body):
    failure = PROVIDERS[provider].failure_of(status, body)
    assert failure.code and not (failure.hides_message and not failure.try_other)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_output_limit_is_set_and_the_document_unchanged(provider):
    implementation = PROVIDERS[provider]
    document: dict[str, Any] = {"messages": []}
    limited = implementation.with_output_limit(document, implementation.SUPPORTED_DIALECTS[0], SMALL, 7)
    assert 7 in limited.values() and document == {"messages": []}
