"""Model cards: sizes and bits by exact names."""

import csv
from importlib import resources

import pytest

from gateway.feeds import model_cards


@pytest.mark.parametrize(
    "name, sizes",
    [
        ("meta-llama/Llama-3.1-8B-Instruct", (8, 8)),
        ("llama-3.1-8b-instant", (8, 8)),
        ("llama-3.3-70b-versatile", (70, 70)),
        ("deepseek-ai/DeepSeek-V3-0324", (671, 37)),
        ("openai/gpt-oss-120b", (116.8, 5.1)),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", (30.5, 3.3)),
    ],
)
def test_a_model_card_is_found_by_name(name, sizes):
    card = model_cards.find(name)
    assert card is not None
    assert (card.total_params_b, card.active_params_b) == pytest.approx(sizes, rel=0.03)


@pytest.mark.parametrize(
    "name, bits",
    [("llama-3.1-8b-instruct", 16), ("Llama-3.1-8B-Instruct-AWQ", 4), ("llama-3.1-8b-instruct-gptq-int4", 4),
     ("Llama-3.1-8B-Instruct-FP8-dynamic", 8), ("llama-3.1-8b-instruct-quantized.w8a8", None), ("deepseek-v3", 8), ("deepseek-v3-bf16", 16)],
)  # fmt: skip
def test_bits_per_weight_are_read_from_the_name(name, bits):
    card = model_cards.find(name)
    assert (card.bits if card is not None else None) == bits


@pytest.mark.parametrize("name", ["gpt-5", "claude-sonnet-4-5", "llama", "deepseek", "qwen3", "", "-", "sim-small"])
def test_names_are_never_matched_by_similarity(name):
    assert model_cards.find(name) is None


def test_every_card_has_a_source_and_plausible_sizes():
    rows = list(
        csv.DictReader(resources.files("gateway.feeds").joinpath("model_cards.csv").read_text("utf-8").splitlines())
    )
    assert len(rows) > 100
    for row in rows:
        assert row["source"], row
        assert 0 < float(row["active_b"]) <= float(row["total_b"]) < 5000, row
        assert row["bits"] in ("4", "8", "16"), row
    assert len({model_cards.normalized_name(row["model"]) for row in rows}) == len(rows)
