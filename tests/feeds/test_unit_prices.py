"""Prices by the piece from litellm's list."""

import json
from typing import Any

import msgspec
import pytest

from gateway.feeds import prices_litellm, unit_prices


def prices(entry: dict[str, Any], **others: dict[str, Any]) -> dict[str, int]:
    models = {"m": entry, **others}
    price_list = {name: msgspec.Raw(json.dumps(model).encode()) for name, model in models.items()}
    return unit_prices.unit_prices(price_list, "m", entry)


@pytest.mark.parametrize(
    "entry, expected",
    [
        ({"output_cost_per_image": 0.04}, {"image": 40_000_000}),
        ({"input_cost_per_image": 0.04, "mode": "image_edit"}, {"image": 40_000_000}),
        ({"input_cost_per_image": 0.0011, "mode": "chat"}, {}),
        ({"input_cost_per_image": 0.0011, "output_cost_per_image": 0.134, "mode": "image_generation"}, {"image": 134_000_000}),
        ({"input_cost_per_second": 0.0001, "output_cost_per_second": 0.0001}, {"second": 100_000}),
        ({"input_cost_per_second": 0.0001, "output_cost_per_second": 0}, {"second": 100_000}),
        ({"input_cost_per_query": 0.002, "input_cost_per_character": 1.5e-5}, {"query": 2_000_000, "character": 15_000}),
        ({"ocr_cost_per_page": 0.001}, {"page": 1_000_000}),
        (
            {"mode": "video_generation", "output_cost_per_second": 0.4, "output_cost_per_second_4k": 0.6},
            {"video_second": 400_000_000, "video_second::4k": 600_000_000},
        ),
        (
            {"mode": "video_generation", "output_cost_per_video_per_second": 0.1},
            {"video_second": 100_000_000},
        ),
        ({"output_cost_per_image": 0}, {}),
    ],
    ids=[
        "an image", "an edited image", "an image that is seen", "an image that is drawn", "one fee under two names",
        "a fee of input alone", "query and character", "a page", "a video by resolution", "a video", "no price",
    ],
)  # fmt: skip
def test_pieces_are_priced_in_nano_dollars(entry, expected):
    assert prices(entry) == expected


def test_images_are_priced_by_quality_and_size_by_the_picture_or_by_pixels():
    entry: dict[str, Any] = {"mode": "image_generation"}
    found = prices(
        entry,
        **{
            "low/1024-x-1024/m": {"mode": "image_generation", "input_cost_per_image": 0.011},
            "hd/1024-x-1792/m": {"mode": "image_generation", "input_cost_per_pixel": 6.539e-08},
            "1024-x-1024/m": {"mode": "image_generation", "input_cost_per_image": 0.02},
            "1024-x-1024/50-steps/m": {"mode": "image_generation", "output_cost_per_image": 0.06},
            "high/1024-x-1024/other": {"mode": "image_generation", "input_cost_per_image": 1.0},
        },
    )
    assert found == {
        "image:low:1024x1024": 11_000_000,
        "image:hd:1024x1792": 119_991_173,
        "image::1024x1024": 20_000_000,
        "image": 20_000_000,
    }


@pytest.mark.parametrize(
    "model, unit, nusd",
    [
        ("whisper-1", "second", 100_000),
        ("azure/whisper-1", "second", 100_000),
        ("tts-1", "character", 15_000),
        ("rerank-v3.5", "query", 2_000_000),
        ("mistral/mistral-ocr-latest", "page", 4_000_000),
        ("sora-2", "video_second", 100_000_000),
        ("sora-2-pro", "video_second::1024p", 500_000_000),
        ("gpt-image-1.5", "image:high:1024x1536", 200_000_000),
        ("gpt-image-1", "image:low:1024x1024", 11_000_000),
    ],
)
def test_listed_models_have_prices_by_the_piece(model, unit, nusd):
    found = prices_litellm.listed_model(prices_litellm.load(), model)
    assert found is not None and found.unit_prices[unit] == nusd
