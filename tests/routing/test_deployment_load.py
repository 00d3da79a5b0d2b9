"""Load of deployments: open calls, failures, rate limits."""

import pytest

from gateway.routing.deployment_load import DeploymentLoads


def test_open_calls_and_failures_raise_the_load():
    loads = DeploymentLoads()
    assert loads.load("a", 10, now=0.0).effective_ms == 0.0
    for _ in range(10):
        loads.call_started("a")
        loads.call_ended("a", 100.0, failed=False)
        loads.call_started("b")
        loads.call_ended("b", 100.0, failed=True)
    assert loads.load("a", 10, now=0.0).effective_ms < loads.load("b", 10, now=0.0).effective_ms
    loads.call_started("a")
    assert loads.load("a", 10, now=0.0).first_byte_ms == pytest.approx(200.0)


@pytest.mark.parametrize(
    "headers, tokens, limited",
    [
        ({}, 10, False),
        ({"x-ratelimit-remaining-requests": "0"}, 10, True),
        ({"x-ratelimit-remaining-requests": "50"}, 10, False),
        ({"x-ratelimit-remaining-tokens": "900"}, 1000, True),
        ({"anthropic-ratelimit-input-tokens-remaining": "900"}, 1000, True),
        ({"anthropic-ratelimit-tokens-remaining": "9000"}, 1000, False),
        ({"x-ratelimit-remaining-requests": "nonsense"}, 10, False),
        ({"x-ratelimit-remaining-requests": "9" * 40}, 10, False),
    ],
)
def test_rate_limit_headers_mark_a_deployment_until_they_expire(headers, tokens, limited):
    loads = DeploymentLoads()
    loads.record_rate_limit_headers("a", headers, now=100.0)
    assert loads.load("a", tokens, now=101.0).rate_limited is limited
    assert not loads.load("a", tokens, now=200.0).rate_limited
