"""Images and documents in the forms that Anthropic accepts."""

import base64
from typing import Any

import pytest

from gateway.dialects.translation.media import document_source, image_source
from gateway.values.errors import NotTranslatable
from tests.dialects.translation.translating import translate

# The first bytes of each type, in base64.
JPEG, PNG, GIF, WEBP, SVG = "/9j/4AAQ", "iVBORw0KGgo=", "R0lGODlh", "UklGRiQAAABXRUJQ", "PHN2Zz4="


@pytest.mark.parametrize(
    "url, media_type",
    [
        (f"data:image/jpeg;base64,{JPEG}", "image/jpeg"),
        (f"data:image/jpg;base64,{JPEG}", "image/jpeg"),
        ("data:image/jpg;base64,AAAA", "image/jpeg"),
        ("data:image/pjpeg;base64,AAAA", "image/jpeg"),
        (f"data:image/PNG;base64,{PNG}", "image/png"),
        ("DATA:IMAGE/GIF;BASE64,AAAA", "image/gif"),
        (f"data:image/webp;base64,{WEBP}", "image/webp"),
        (f"data:image/png;base64,{JPEG}", "image/jpeg"),
        (f"data:;base64,{GIF}", "image/gif"),
        (f"data:image/png;charset=utf-8;base64,{PNG}", "image/png"),
    ],
    ids=[
        "as it is", "jpg", "jpg with unknown data", "pjpeg", "upper case", "all in upper case", "webp", "a wrong label",
        "no label", "a parameter",
    ],
)  # fmt: skip
def test_an_image_has_the_type_that_anthropic_knows_it_by(url, media_type):
    source = image_source(url, "path")
    assert (source["type"], source["media_type"]) == ("base64", media_type)
    assert source["data"] == url.partition(",")[2]


@pytest.mark.parametrize("kind", ["image/svg+xml", "image/bmp", "image/tiff", "image/heic", "text/plain"])
def test_an_image_of_another_type_is_refused_by_name(kind):
    with pytest.raises(NotTranslatable, match="JPEG, PNG, GIF and WebP") as raised:
        image_source(f"data:{kind};base64,{SVG}", "messages.0.content.1")
    assert raised.value.param == "messages.0.content.1" and kind in raised.value.message


def test_an_image_of_responses_is_read_likewise():
    image = {"type": "input_image", "image_url": f"data:image/JPG;base64,{JPEG}"}
    output = {"type": "function_call_output", "call_id": "c", "output": [image]}
    items = [{"role": "user", "content": [image]}, {"type": "function_call", "call_id": "c", "name": "f"}, output]
    document = translate("responses", "messages", input=items).document
    sources = [block["source"] for message in document["messages"] for block in message["content"] if "source" in block]
    assert [source["media_type"] for source in sources] == ["image/jpeg"] * 2


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "file_data, source",
    [
        ("data:application/pdf;base64,AAAA", {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}),
        ("data:application/PDF;base64,AAAA", {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}),
        ("AAAA", {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}),
        (f"data:text/plain;base64,{encoded('Hä')}", {"type": "text", "media_type": "text/plain", "data": "Hä"}),
        (f"data:text/markdown;base64,{encoded('# x')}", {"type": "text", "media_type": "text/plain", "data": "# x"}),
        (f"data:application/json;base64,{encoded('{}')}", {"type": "text", "media_type": "text/plain", "data": "{}"}),
    ],
    ids=["PDF", "in upper case", "without a label", "text", "Markdown", "JSON"],
)
def test_a_document_is_pdf_or_text(file_data, source):
    part: dict[str, Any] = {"type": "file", "file": {"filename": "a", "file_data": file_data}}
    document = translate("chat", "messages", messages=[{"role": "user", "content": [part]}]).document
    assert document["messages"][0]["content"] == [{"type": "document", "source": source, "title": "a"}]


@pytest.mark.parametrize(
    "file_data, reason",
    [
        ("data:application/zip;base64,AAAA", "PDF and text documents, not 'application/zip'"),
        ("data:text/plain;base64,/w==", "no valid text"),
        ("data:text/plain;base64,A", "no valid text"),
        ("data:text/plain,hi", "must be base64"),
    ],
)
def test_another_document_is_refused(file_data, reason):
    with pytest.raises(NotTranslatable, match=reason.replace("no valid text", "not valid text")):
        document_source({"file_data": file_data}, "path")
