"""Pass-through requests: the model in JSON or in a form, billed units, streams of any events."""

import json
from typing import Any

import pytest

from gateway.dialects import passthrough
from gateway.dialects.passthrough import PassThroughStreamMeter
from gateway.values.errors import BadRequest
from gateway.values.request import PassThrough, Request
from tests.dialects.streams import INPUT_TOKENS, OUTPUT_TOKENS

FORM = "multipart/form-data; boundary=xyz"


def parse(path: str, body: bytes = b"", *, method: str = "POST", content_type: str = "application/json") -> Request:
    return passthrough.parse(method, path, content_type, body, "chat")


def parts_of(request: Request) -> PassThrough:
    assert request.passthrough is not None
    return request.passthrough


def form(*fields: tuple[str, str]) -> bytes:
    parts = [f'--xyz\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields]
    return "".join([*parts, "--xyz--\r\n"]).encode()


@pytest.mark.parametrize(
    "raw, content_type, sent",
    [
        (b'{"model":"auto","x":1e400}', "application/json", b'{"model":"painter","x":1e400}'),
        (b'{"model":"auto"}', "application/json; charset=utf-8", b'{"model":"painter"}'),
        (b'{"model":"auto"}', "", b'{"model":"painter"}'),
        (form(("a", "1"), ("model", "auto")), FORM, form(("a", "1"), ("model", "painter"))),
        (form(("model", "auto")), 'multipart/form-data; boundary="xyz"', form(("model", "painter"))),
        (b"preamble\r\n" + form(("model", "auto")), FORM, b"preamble\r\n" + form(("model", "painter"))),
    ],
    ids=["JSON", "a charset", "no content type", "a form", "a quoted boundary", "a preamble"],
)
def test_the_model_is_replaced_and_nothing_else(raw, content_type, sent):
    request = parse("/images/generations", raw, content_type=content_type)
    assert request.model == "auto"
    assert b"".join(passthrough.upstream_body(request, "painter", ask_usage=True)) == sent


@pytest.mark.parametrize(
    "raw, content_type",
    [
        (b'{"a":1}', "application/json"),
        (b"[1]", "application/json"),
        (b'{"model":"auto"}', "text/plain"),
        (b"", "application/json"),
        (form(("a", "model")), FORM),
        (b"no boundary", FORM),
    ],
    ids=["no key", "an array", "another content type", "no body", "a form without the field", "no form"],
)
def test_a_body_without_a_model_is_forwarded_unchanged(raw, content_type):
    request = parse("/files", raw, content_type=content_type)
    assert request.model == ""
    assert b"".join(passthrough.upstream_body(request, "painter", ask_usage=True)) == raw


@pytest.mark.parametrize(
    "raw, content_type, words",
    [
        (b'{"model":"a","model":"b"}', "application/json", "exactly once"),
        (form(("model", "a"), ("model", "b")), FORM, "exactly once"),
        (form(("model", "a"), ("MODEL", "b")), FORM, "exactly once"),
        (form(("model", "a")), "multipart/form-data", "Missing boundary"),
        (form(*(("a", "1") for _ in range(99))), FORM, "Too many form parts"),
        (b"{", "application/json", "could not parse"),
    ],
    ids=["two keys", "two form fields", "in other letters", "no boundary", "too many parts", "no JSON"],
)
def test_an_ambiguous_body_is_rejected(raw, content_type, words):
    with pytest.raises(BadRequest, match=words):
        parse("/images/edits", raw, content_type=content_type)


@pytest.mark.parametrize(
    "raw, content_type",
    [(b'{"model":"m","stream":true}', "application/json"), (form(("model", "m"), ("stream", "True")), FORM)],
)
def test_a_stream_may_be_requested_in_json_or_in_a_form(raw, content_type):
    assert parse("/audio/speech", raw, content_type=content_type).stream


@pytest.mark.parametrize(
    "path, document, units",
    [
        ("/images/generations", {}, ("image", 1)),
        ("/images/generations", {"n": 4}, ("image", 4)),
        ("/audio/speech", {"input": "Łódź"}, ("character", 4)),
        ("/audio/transcriptions", {}, ("second", 1)),
        ("/rerank", {}, ("query", 1)),
        ("/moderations", {}, None),
    ],
)
def test_a_path_that_is_billed_by_unit_has_an_upper_bound(path, document, units):
    assert parts_of(parse(path, json.dumps({"model": "m", **document}).encode())).billed_units_max == units


def test_audio_is_at_most_as_long_as_its_bytes_at_the_lowest_rate():
    audio = form(("model", "m"), ("file", "x" * 30_000))
    assert parts_of(parse("/audio/transcriptions", audio, content_type=FORM)).billed_units_max == ("second", 31)


def test_a_form_has_the_number_size_and_quality_of_its_images():
    edit = form(("model", "m"), ("n", "3"), ("size", "1024x1536"), ("quality", "high"), ("image", "x" * 5000))
    assert parts_of(parse("/images/edits", edit, content_type=FORM)).billed_units_max == ("image:high:1024x1536", 3)


def test_more_images_than_any_model_draws_are_rejected():
    with pytest.raises(BadRequest, match="above maximum"):
        parse("/images/generations", b'{"model":"m","n":129}')


@pytest.mark.parametrize(
    "method, path, is_free, creates_object, reports_usage, ids",
    [
        ("GET", "/files/file-1", True, False, False, ("file-1",)),
        ("POST", "/files", True, True, False, ()),
        ("POST", "/batches", False, True, False, ()),
        ("POST", "/batches/batch_1/cancel", True, False, False, ("batch_1",)),
        ("POST", "/images/generations?x=1", False, False, True, ()),
        ("GET", "/responses/resp_1?stream=true", True, False, True, ("resp_1",)),
        ("DELETE", "/responses/resp_1", True, False, True, ("resp_1",)),
        ("POST", "/messages/count_tokens", True, False, False, ()),
        ("POST", "/responses/resp_1/cancel", True, False, True, ("resp_1",)),
        ("GET", "/responses/resp_1/input_items?limit=2", True, False, True, ("resp_1",)),
        ("POST", "/responses/compact", False, True, True, ()),
        ("POST", "/responses/input_tokens", False, False, True, ()),
        ("GET", "/messages/batches/msgbatch_1/results", True, False, False, ("msgbatch_1",)),
        ("POST", "/messages/batches", False, True, False, ()),
        ("GET", "/containers/cntr_1/files/cfile_12/content", True, False, False, ("cntr_1", "cfile_12")),
        ("POST", "/vector_stores/vs_1/files", True, True, False, ("vs_1",)),
        ("GET", "/fine_tuning/jobs/ftjob-1/events", True, False, False, ("ftjob-1",)),
        ("POST", "/videos/generations", False, True, False, ()),
        ("GET", "/videos/video_1/content", True, False, False, ("video_1",)),
    ],
)  # fmt: skip
def test_the_path_says_what_is_charged_and_which_object_is_meant(
    method, path, is_free, creates_object, reports_usage, ids
):
    request = parse(path, method=method)
    parts = parts_of(request)
    assert (parts.is_free, parts.creates_object, parts.reports_usage) == (is_free, creates_object, reports_usage)
    assert (request.referenced_ids, parts.path, parts.method) == (ids, path, method)


def feed(*events: Any) -> PassThroughStreamMeter:
    meter = PassThroughStreamMeter()
    for event in events:
        raw = b"data: " + json.dumps(event).encode() + b"\n\n"
        assert meter.feed(raw) == raw
    return meter


def test_usage_and_errors_are_read_from_any_event_of_a_stream():
    meter = feed(*({"x": number} for number in range(9)), {"usage": {"total_tokens": 5}}, {"error": {"message": "no"}})
    assert (meter.usage, meter.error) == ({"total_tokens": 5}, {"message": "no"})


def test_a_stream_whose_end_mark_is_unknown_is_complete_at_any_time():
    assert feed({"x": 1}).is_complete and feed().text_totals() == (0, 0)
    assert passthrough.answer_text_bytes({"choices": [{"text": "x"}]}) == 0


def test_a_passed_through_stream_stops_without_an_ending():
    meter = PassThroughStreamMeter()
    meter.may_end_early = True
    assert meter.feed(b'data: {"x":1}\n\n') == b'data: {"x":1}\n\n'
    assert (meter.end_early(INPUT_TOKENS, OUTPUT_TOKENS), meter.done) == (b"", True)
