"""Integer units for what is summed, and conversions to what people read.

Money is integer nano-dollars (nUSD, 1e-9 US dollar), energy integer millijoules, carbon integer micrograms CO2e, so
that sums are exact in any order. 2**63 nUSD is 9.2 billion dollars.
"""

import re
from decimal import Decimal

import msgspec

NUSD_PER_USD = 1_000_000_000
TOKENS_PER_MTOK = 1_000_000
MILLIJOULES_PER_WH = 3_600_000
MICROGRAMS_PER_GRAM = 1_000_000
JOULES_PER_KWH = 3_600_000


class Bounds(msgspec.Struct, frozen=True, gc=False):
    """A figure with systematic bounds, low <= mid <= high; the field names the unit.

    Lows add to lows and highs to highs: the bounds are not noise and do not shrink by the root of n.
    """

    low: int
    mid: int
    high: int

    def __add__(self, other: "Bounds") -> "Bounds":
        return Bounds(self.low + other.low, self.mid + other.mid, self.high + other.high)


ZERO_BOUNDS = Bounds(0, 0, 0)


def usd_to_nusd(usd: Decimal) -> int:
    """Dollars to nano-dollars; raises ValueError if the amount is finer."""
    nusd = usd * NUSD_PER_USD
    if nusd != nusd.to_integral_value():
        raise ValueError("finer than a nano-dollar")
    return int(nusd)


def nusd_to_usd(nusd: int) -> str:
    """Nano-dollars as exact decimal dollars, without exponent: 1_500_000 -> '0.0015'."""
    sign = "-" if nusd < 0 else ""
    whole, part = divmod(abs(nusd), NUSD_PER_USD)
    return f"{sign}{whole}.{part:09d}".rstrip("0").rstrip(".") if part else f"{sign}{whole}"


def plain_decimal(amount: float) -> str:
    """An amount in twelve digits at most, without exponent."""
    text = f"{amount:.12g}"
    return text if "e" not in text else f"{amount:.6f}".rstrip("0").rstrip(".")


def divide_half_even(numerator: int, denominator: int) -> int:
    """Integer division rounded half to even; the denominator is positive."""
    quotient, rest = divmod(numerator, denominator)
    twice = rest * 2
    if twice > denominator or (twice == denominator and quotient & 1):
        quotient += 1
    return quotient


def divide_ceil(numerator: int, denominator: int) -> int:
    """Integer division rounded up; the denominator is positive."""
    return -(-numerator // denominator)


# Some agents retry an error whose text contains the digits of a retryable status anywhere (pi 0.6x:
# /429|500|502|503|504/ on the message): "used 0.0504 USD" is then sent four times.
_STATUS_LIKE = re.compile(r"429|50[0234]")


def message_number(number: float) -> str:
    """A number for an error message: three digits.

    Never contains the digits of a retryable status, which some agents would act on.
    """
    text = f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"
    return f"{number:.2e}" if _STATUS_LIKE.search(text) else text
