"""Output estimates: quantiles of the narrowest group with enough calls."""

import pytest

from gateway.accounting.output_estimate import DEFAULT_EXPECTED_TOKENS, DEFAULT_MEDIAN_TOKENS, OutputEstimates


def observed(*counts: int, times: int = 1, task_type: str = "code", model: str = "m") -> OutputEstimates:
    estimates = OutputEstimates()
    for tokens in counts * times:
        estimates.observe(task_type, model, tokens)
    return estimates


def test_without_calls_the_defaults_hold():
    estimates = observed(100, times=19)
    assert estimates.expected_tokens("code", "m") == DEFAULT_EXPECTED_TOKENS
    assert estimates.median_tokens("code", "m") == DEFAULT_MEDIAN_TOKENS


@pytest.mark.parametrize("tokens", [1, 7, 100, 4096, 1_000_000])
def test_a_quantile_is_at_most_one_bin_above_the_length(tokens):
    estimates = observed(tokens, times=40)
    for quantile in (estimates.expected_tokens("code", "m"), estimates.median_tokens("code", "m")):
        assert tokens <= quantile * 2 ** (1 / 6) and quantile <= tokens * 2 ** (1 / 6) + 1


def test_the_expected_length_covers_the_long_answers_and_the_median_does_not():
    estimates = observed(*[100] * 18, 4000, 4000, times=5)
    assert estimates.expected_tokens("code", "m") > 3500 > 150 > estimates.median_tokens("code", "m")


def test_an_answer_without_output_counts_as_one_token():
    assert observed(0, times=40).expected_tokens("code", "m") == 1


def test_other_task_types_of_the_model_come_before_other_models():
    estimates = observed(50, times=30)
    assert estimates.expected_tokens("chat", "m") == estimates.expected_tokens("code", "m")
    assert estimates.expected_tokens("code", "other") == DEFAULT_EXPECTED_TOKENS
    assert estimates.median_tokens("code", "other") == estimates.median_tokens("code", "m")


def test_old_calls_fade():
    estimates = observed(10, times=2500)
    for _ in range(2200):
        estimates.observe("code", "m", 1000)
    assert estimates.median_tokens("code", "m") > 800
