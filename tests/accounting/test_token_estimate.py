"""Token estimates without a tokenizer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.accounting import token_estimate


@pytest.mark.parametrize(
    "body, skipped, tokens",
    [
        (b"", 0, 1),
        (b"a" * 400, 0, 100),
        ("世".encode() * 100, 0, 100),
        (b"a" * 400 + "世".encode() * 100, 0, 200),
        (b"a" * 400, 200, 50),
        (b"a" * 400 + "世".encode(), 200, 51),
        (b"a" * 10, 9, 1),
    ],
    ids=["nothing", "ASCII", "CJK", "mixed", "inline media", "inline media beside CJK", "media only"],
)
def test_the_best_estimate_counts_four_ascii_bytes_or_three_others(body, skipped, tokens):
    assert token_estimate.input_tokens(body, skip_bytes=skipped) == tokens


@given(text=st.text(max_size=200))
def test_the_estimate_never_exceeds_the_bytes(text):
    assert 1 <= token_estimate.input_tokens(text.encode(errors="replace")) <= max(1, len(text.encode(errors="replace")))


@pytest.mark.parametrize("size, events, tokens", [(0, 0, 0), (1, 0, 1), (400, 10, 100), (401, 10, 101), (8, 5, 5)])
def test_output_has_at_least_one_token_per_event(size, events, tokens):
    assert token_estimate.output_tokens(size, events) == tokens


@pytest.mark.parametrize(
    "text_bytes, text_events, tokens",
    [(0, 0, 0), (400, 1, 100), (404, 1, 100), (1200, 1, 100), (1201, 1, 301), (40, 300, 100), (2400, 600, 600)],
    ids=["nothing", "the limit", "a token more", "the error of the estimate", "more than that", "many events", "a provider that ignores limits"],
)  # fmt: skip
def test_an_estimate_above_the_output_limit_is_the_limit_unless_the_text_is_too_long_for_it(
    text_bytes, text_events, tokens
):
    assert token_estimate.output_tokens_within(100, text_bytes, text_events) == tokens
