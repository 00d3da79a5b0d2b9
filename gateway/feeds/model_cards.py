"""Open models' sizes as their makers publish them; `model_cards.csv` says where. Facts only: no guess is among them."""

import csv
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources

from msgspec import structs

from ..values.base import Value

# What comes behind a model's name and changes nothing about its weights: tunings, dates, offers.
_NAME_SUFFIXES = re.compile(
    r"[-_:@.](instruct|chat|it|latest|hf|preview|fast|turbo|versatile|instant|maas|tput|reference|thinking|base|v\d+:\d+"
    r"|\d{4}|\d{6}|\d{8}|\d{4}-\d{2}-\d{2})$"
)
# What says how many bits a weight has.
_WEIGHT_FORMATS = re.compile(r"[-_:@.](bf16|fp16|fp8|int8|w8a8|w8a16|fp4|nvfp4|mxfp4|int4|w4a16|awq|gptq)(-dynamic)?$")
_BITS = {"bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "w8a8": 8, "w8a16": 8}
_FOUR_BITS = 4
_NAME_SEPARATORS = re.compile(r"[^a-z0-9.]+")


class ModelCard(Value, frozen=True, kw_only=True):
    """Parameters in billions (1e9), and the bits of a weight as it was released."""

    total_params_b: float
    active_params_b: float
    bits: int


@lru_cache(maxsize=1)
def load() -> Mapping[str, ModelCard]:
    """Name in its plain form -> card. The file is part of the package."""
    text = resources.files(__package__).joinpath("model_cards.csv").read_text("utf-8")
    return {
        normalized_name(row["model"]): ModelCard(
            total_params_b=float(row["total_b"]), active_params_b=float(row["active_b"]), bits=int(row["bits"])
        )
        for row in csv.DictReader(text.splitlines())
    }


def find(model: str) -> ModelCard | None:
    """The card of a model as a provider names it ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b-instant"), with the bits
    that its name tells; None if it is not known. Names are compared whole, never by likeness."""
    cards, name, bits = load(), model.rsplit("/", 1)[-1].lower(), 0
    while True:
        found = cards.get(normalized_name(name))
        if found is not None:
            return structs.replace(found, bits=bits) if bits else found
        told = _WEIGHT_FORMATS.search(name)
        if told is not None:
            bits = bits or _BITS.get(told[1], _FOUR_BITS)
        shorter = name[: told.start()] if told is not None else _NAME_SUFFIXES.sub("", name)
        if shorter == name:
            return None
        name = shorter


def normalized_name(name: str) -> str:
    """A name without its organisation, case and punctuation."""
    return _NAME_SEPARATORS.sub("-", name.rsplit("/", 1)[-1].lower()).strip("-")
