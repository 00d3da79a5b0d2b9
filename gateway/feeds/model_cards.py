"""Open models' sizes as their makers publish them; `model_cards.csv` says where. Facts only: no guess is among them."""

import csv
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources

from ..values.base import Value

# What comes behind a model's name and changes nothing about its weights: dates, tunings, formats.
_ENDINGS = re.compile(
    r"[-_:@.](instruct|chat|it|latest|hf|preview|fast|turbo|versatile|instant|maas|tput|reference|thinking|base|v\d+:\d+"
    r"|\d{4}|\d{6}|\d{8}|\d{4}-\d{2}-\d{2}|fp8|fp4|bf16|nvfp4|mxfp4|int8|int4|awq|gptq|gguf)$"
)
_NOT_NAMES = re.compile(r"[^a-z0-9.]+")


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
        plain(row["model"]): ModelCard(
            total_params_b=float(row["total_b"]), active_params_b=float(row["active_b"]), bits=int(row["bits"])
        )
        for row in csv.DictReader(text.splitlines())
    }


def find(model: str) -> ModelCard | None:
    """The card of a model as a provider names it ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b-instant"); None if it is
    not known. Names are compared whole, never by likeness."""
    cards, name = load(), model.rsplit("/", 1)[-1].lower()
    while True:
        found = cards.get(plain(name))
        if found is not None:
            return found
        shorter = _ENDINGS.sub("", name)
        if shorter == name:
            return None
        name = shorter


def plain(name: str) -> str:
    """A name without its organisation, case and punctuation."""
    return _NOT_NAMES.sub("-", name.rsplit("/", 1)[-1].lower()).strip("-")
