"""What the calls of a session cost: recorded dollars where there are any, else an estimate from list prices; energy of
a nominal frontier model.

Tokens are characters / 4. Every call pays its whole history at the input price (no prompt cache) and its answer at the
output price.
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

# The frontier deployment of config/routing.yaml: not published, a guess; 8 bits per parameter.
NOMINAL_MODEL = EnergyProfile(active_params_b=60.0, total_params_b=400.0, bytes_per_param=1.0)
NOMINAL_MODEL_TEXT = "nominal frontier model, 60e9 of 400e9 parameters active, 8 bits, mid estimate"
_NOMINAL_ENERGY_MODEL = energy_models(NOMINAL_MODEL)


class TokenPrices(msgspec.Struct, frozen=True, kw_only=True):
    """Dollars per million tokens."""

    input: float = 3.0
    output: float = 15.0


class Spend(msgspec.Struct, frozen=True, kw_only=True):
    """Calls and what they took; `usd` is recorded or estimated, `wh` always nominal."""

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
    """Their sum."""
    result = Spend()
    for spend in spends:
        result = result + spend
    return result


def call_spends(recording: Recording, prices: TokenPrices) -> Sequence[Spend]:
    """What each call of the session took.

    Recorded dollars are shared out by what the calls would have cost at list prices.
    """
    spends, history, before = [], 0, 0
    for place in recording.answer_positions:
        history += sum(message_chars(message) for message in recording.messages[before:place])
        before = place
        given, written = history // CHARS_PER_TOKEN, message_chars(recording.messages[place]) // CHARS_PER_TOKEN
        usd = (given * prices.input + written * prices.output) / _TOKENS_PER_MTOK
        wh = energy_millijoules_mid(_NOMINAL_ENERGY_MODEL, given, written) / MILLIJOULES_PER_WH
        spends.append(Spend(call_count=1, tokens=given + written, usd=usd, wh=wh))
    listed = sum(spend.usd for spend in spends)
    if recording.cost_usd is None or listed <= 0:
        return spends
    share = recording.cost_usd / listed
    return [msgspec.structs.replace(spend, usd=spend.usd * share) for spend in spends]


def message_chars(message: RecordedMessage) -> int:
    """Characters of a message as it was, before long texts were cut in the recording."""
    original, content = message.get("_chars"), message.get("content")
    said = original if isinstance(original, int) else len(content) if isinstance(content, str) else 0
    if isinstance(content, list):
        said = sum(
            len(part["text"]) for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    functions = [call.get("function") for call in message.get("tool_calls") or ()]
    return said + sum(len(str(one.get("name"))) + len(str(one.get("arguments"))) for one in functions if one)
