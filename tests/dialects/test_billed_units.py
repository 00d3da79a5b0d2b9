"""Pieces that a request can cost at most, and those that an answer reports."""

import pytest

from gateway.dialects import billed_units
from gateway.values.errors import BadRequest


@pytest.mark.parametrize(
    "path, fields, most",
    [
        ("/images/generations", {}, ("image", 1)),
        ("/images/generations", {"n": 4, "size": "1024x1536", "quality": "hd"}, ("image:hd:1024x1536", 4)),
        ("/images/generations", {"size": "auto", "quality": "auto"}, ("image", 1)),
        ("/images/generations", {"quality": "low"}, ("image:low:", 1)),
        ("/images/generations", {"size": "big", "quality": "a:b"}, ("image", 1)),
        ("/images/edits", {"n": "2", "size": "512x512"}, ("image::512x512", 2)),
        ("/audio/speech", {"input": "Łódź"}, ("character", 4)),
        ("/audio/speech", {}, ("character", 60_000)),
        ("/audio/transcriptions", {}, ("second", 60)),
        ("/rerank", {"documents": ["d"] * 150}, ("query", 3)),
        ("/rerank", {}, ("query", 2)),
        ("/ocr", {"pages": [0, 1, 2]}, ("page", 3)),
        ("/ocr", {}, ("page", 1000)),
        ("/videos", {"seconds": "8", "size": "1280x720"}, ("video_second::720p", 8)),
        ("/videos", {"size": "1000x999"}, ("video_second", 4)),
        ("/videos/v_1/remix", {}, None),
        ("/moderations", {}, None),
    ],
)
def test_a_path_that_is_billed_by_the_piece_has_an_upper_bound(path, fields, most):
    assert billed_units.units_max(path, 60_000, fields) == most


@pytest.mark.parametrize("count", [0, -1, 129, "500"])
def test_a_number_of_images_that_no_model_draws_is_rejected(count):
    with pytest.raises(BadRequest):
        billed_units.units_max("/images/generations", 100, {"n": count})


@pytest.mark.parametrize(
    "most, document, reported",
    [
        (("second", 9), {"usage": {"seconds": 3.2}}, ("second", 4)),
        (("second", 9), {"duration": 61}, ("second", 61)),
        (("second", 9), {"duration": "61"}, ("second", 61)),
        (("second", 9), {"duration": -5}, ("second", 0)),
        (("second", 9), {"duration": float("inf")}, None),
        (("second", 9), {"duration": True}, None),
        (("image", 2), {"data": [{"url": "x"}, {"url": "y"}]}, ("image", 2)),
        (("image:high:", 1), {"data": [{"b64_json": "x"}], "size": "1024x1536"}, ("image:high:1024x1536", 1)),
        (
            ("image", 1),
            {"data": [{"b64_json": "x"}], "quality": "low", "size": "1024x1024"},
            ("image:low:1024x1024", 1),
        ),
        (("image", 1), {"data": [{"embedding": []}]}, None),
        (("image", 1), {"data": []}, None),
        (("query", 3), {"meta": {"billed_units": {"search_units": 2}}}, ("query", 2)),
        (("query", 3), {"meta": {"billed_units": None}}, None),
        (("page", 1000), {"usage_info": {"pages_processed": 29, "doc_size_bytes": 5}}, ("page", 29)),
        (("video_second::720p", 4), {"seconds": "8", "size": "1920x1080"}, ("video_second::1080p", 8)),
        (("character", 4), {"duration": 5}, None),
        (None, {"duration": 5}, None),
    ],
)
def test_an_answer_reports_what_it_is_billed_for(most, document, reported):
    assert billed_units.units_of(document, most) == reported
