"""Units: exact conversions, rounding, numbers in messages."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.values.units import (
    Bounds,
    divide_ceil,
    divide_half_even,
    message_number,
    nusd_to_usd,
    plain_decimal,
    usd_to_nusd,
)


def test_half_a_nano_dollar_rounds_to_even():
    assert [divide_half_even(n, 2) for n in (1, 3, 5)] == [0, 2, 2]


@given(nusd=st.integers(-(10**15), 10**15))
def test_dollar_texts_are_exact(nusd):
    assert usd_to_nusd(Decimal(nusd_to_usd(nusd))) == nusd


@pytest.mark.parametrize(
    "number, text",
    [
        (0.0350495, "0.035"),
        (500, "5.00e+02"),
        (0.504, "5.04e-01"),
        (12_500, "1.25e+04"),
        (4096, "4,096"),
        (0, "0"),
        (7.5, "7.5"),
    ],
)
def test_numbers_in_messages_never_contain_a_retryable_status(number, text):
    assert message_number(number) == text


def test_an_amount_finer_than_a_nano_dollar_is_rejected():
    with pytest.raises(ValueError, match="finer"):
        usd_to_nusd(Decimal("0.0000000001"))


@pytest.mark.parametrize("nusd, text", [(0, "0"), (1_500_000, "0.0015"), (-1, "-0.000000001"), (2_000_000_000, "2")])
def test_dollars_are_written_without_exponent(nusd, text):
    assert nusd_to_usd(nusd) == text


@pytest.mark.parametrize("amount, text", [(0.1 + 0.2, "0.3"), (1e-9, "0"), (0.000012, "0.000012"), (4096.0, "4096"), (1e15, "1000000000000000")])  # fmt: skip
def test_an_amount_has_no_exponent(amount, text):
    assert plain_decimal(amount) == text


@given(numerator=st.integers(0, 10**12), denominator=st.integers(1, 10**6))
def test_division_rounds_up(numerator, denominator):
    assert 0 <= divide_ceil(numerator, denominator) * denominator - numerator < denominator


def test_bounds_add_without_shrinking():
    assert Bounds(1, 2, 3) + Bounds(10, 20, 30) == Bounds(11, 22, 33)
