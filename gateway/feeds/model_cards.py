"""Published sizes of open models; `model_cards.csv` names the sources."""

import csv
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources

from msgspec import structs

from ..values.base import Value

# Name suffixes that say nothing about the size of the weights: tunings, dates, service variants.
_NAME_SUFFIXES = re.compile(
    r"[-_:@.](instruct|chat|it|latest|hf|preview|fast|turbo|versatile|instant|maas|tput|reference|thinking|base|v\d+:\d+"
    r"|\d{4}|\d{6}|\d{8}|\d{4}-\d{2}-\d{2})$"
)
# Name suffixes that give the bits per weight.
_WEIGHT_FORMATS = re.compile(r"[-_:@.](bf16|fp16|fp8|int8|w8a8|w8a16|fp4|nvfp4|mxfp4|int4|w4a16|awq|gptq)(-dynamic)?$")
_BITS = {"bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "w8a8": 8, "w8a16": 8}
_FOUR_BITS = 4
_NAME_SEPARATORS = re.compile(r"[^a-z0-9.]+")


class ModelCard(Value, frozen=True, kw_only=True):
    """Size of one model.

    total_params_b: total parameters, billions (1e9).
    active_params_b: parameters active per token, billions (1e9).
    bits: bits per weight, as released or as the model's name says.
    """

    total_params_b: float
    active_params_b: float
    bits: int


@lru_cache(maxsize=1)
def load() -> Mapping[str, ModelCard]:
    """Returns normalized name -> card from the packaged file."""
    text = resources.files(__package__).joinpath("model_cards.csv").read_text("utf-8")
    return {
        normalized_name(row["model"]): ModelCard(
            total_params_b=float(row["total_b"]), active_params_b=float(row["active_b"]), bits=int(row["bits"])
        )
        for row in csv.DictReader(text.splitlines())
    }


def find(model: str) -> ModelCard | None:
    """Returns the card of a model by a provider's name, with the bits in the name.

    Accepts names like "meta-llama/Llama-3.1-8B-Instruct" and "llama-3.1-8b-instant". Names are compared whole, never by
    similarity; None if there is no card.
    """
    cards, name, bits = load(), model.rsplit("/", 1)[-1].lower(), 0
    while True:
        card = cards.get(normalized_name(name))
        if card is not None:
            return structs.replace(card, bits=bits) if bits else card
        weight_format = _WEIGHT_FORMATS.search(name)
        if weight_format is not None:
            bits = bits or _BITS.get(weight_format[1], _FOUR_BITS)
        shorter = name[: weight_format.start()] if weight_format is not None else _NAME_SUFFIXES.sub("", name)
        if shorter == name:
            return None
        name = shorter


def normalized_name(name: str) -> str:
    """Returns a name without its organization, case and punctuation."""
    return _NAME_SEPARATORS.sub("-", name.rsplit("/", 1)[-1].lower()).strip("-")
