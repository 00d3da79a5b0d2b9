"""Spend of a session's calls: recorded or list-price dollars, nominal energy.

Tokens are characters / 4. Every call pays its whole history at the input price (no prompt cache) and its answer at the
output price. Energy is that of a nominal frontier model.
"""

from collections.abc import Iterable, Sequence

import msgspec

from ...carbon.energy import energy_models
from ...carbon.footprint import energy_millijoules_mid
from ...values.catalog import EnergyProfile
from ...values.units import MILLIJOULES_PER_WH
from .recordings import RecordedMessage, Recording

# Characters per token of English and code, the usual rule of thumb (loops.md, section 6).
CHARS_PER_TOKEN = 4
_TOKENS_PER_MTOK = 1e6

# The frontier deployment of config/routing.yaml: unpublished, an estimate; 8 bits per parameter.
NOMINAL_MODEL = EnergyProfile(active_params_b=60.0, total_params_b=400.0, bytes_per_param=1.0)
NOMINAL_MODEL_TEXT = "nominal frontier model, 60e9 of 400e9 parameters active, 8 bits, mid estimate"
_NOMINAL_ENERGY_MODEL = energy_models(NOMINAL_MODEL)


class TokenPrices(msgspec.Struct, frozen=True, kw_only=True):
    """Dollars per million tokens."""

    input: float = 3.0
    output: float = 15.0


class Spend(msgspec.Struct, frozen=True, kw_only=True):
    """Calls and their usage.

    usd: recorded or estimated
    wh: always nominal
    """

    call_count: int = 0
    tokens: int = 0
    usd: float = 0.0
    wh: float = 0.0

    def __add__(self, other: "Spend") -> "Spend":
        return Spend(
            call_count=self.call_count + other.call_count,
            tokens=self.tokens + other.tokens,
            usd=self.usd + other.usd,
            wh=self.wh + other.wh,
        )


def total_spend(spends: Iterable[Spend]) -> Spend:
    """The sum."""
    result = Spend()
    for spend in spends:
        result = result + spend
    return result


def call_spends(recording: Recording, prices: TokenPrices) -> Sequence[Spend]:
    """The spend of each call of the session.

    Recorded dollars are distributed by what the calls would have cost at list prices.
    """
    spends, history, previous = [], 0, 0
    for index in recording.answer_positions:
        history += sum(message_chars(message) for message in recording.messages[previous:index])
        previous = index
        input_tokens, output_tokens = (
            history // CHARS_PER_TOKEN,
            message_chars(recording.messages[index]) // CHARS_PER_TOKEN,
        )
        usd = (input_tokens * prices.input + output_tokens * prices.output) / _TOKENS_PER_MTOK
        wh = energy_millijoules_mid(_NOMINAL_ENERGY_MODEL, input_tokens, output_tokens) / MILLIJOULES_PER_WH
        spends.append(Spend(call_count=1, tokens=input_tokens + output_tokens, usd=usd, wh=wh))
    list_usd = sum(spend.usd for spend in spends)
    if recording.cost_usd is None or list_usd <= 0:
        return spends
    share = recording.cost_usd / list_usd
    return [msgspec.structs.replace(spend, usd=spend.usd * share) for spend in spends]


def message_chars(message: RecordedMessage) -> int:
    """Characters of a message before long texts were cut in the recording."""
    original, content = message.get("_chars"), message.get("content")
    chars = original if isinstance(original, int) else len(content) if isinstance(content, str) else 0
    if isinstance(content, list):
        chars = sum(
            len(part["text"]) for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    functions = [call.get("function") for call in message.get("tool_calls") or ()]
    return chars + sum(
        len(str(function.get("name"))) + len(str(function.get("arguments"))) for function in functions if function
    )
