"""Images and documents in the forms that Anthropic accepts."""

import base64
import binascii
import re
from typing import Any

from ...values.errors import NotTranslatable

# Anthropic's media types (docs.anthropic.com, vision and PDF support, 2026-11): of images, and of documents in base64.
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_DOCUMENT_TYPE = "application/pdf"
# Other names of these types; OpenAI accepts them.
_TYPE_ALIASES = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png"}
# How the base64 of each type begins. Anthropic refuses a label that its data contradicts, OpenAI reads the data.
_IMAGE_BEGINNINGS = (
    ("/9j/", "image/jpeg"),
    ("iVBORw0KGgo", "image/png"),
    ("R0lGOD", "image/gif"),
    ("UklGR", "image/webp"),
)
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w=.-]+)*?);base64,", re.ASCII | re.IGNORECASE)
# Types other than text/* whose content is text.
_TEXT_TYPES = (
    "application/json",
    "application/xml",
    "application/yaml",
    "application/x-yaml",
    "application/javascript",
)


def image_source(url: Any, path: str) -> dict[str, str]:
    """Return the source of an image block. Raises NotTranslatable naming a type that Anthropic refuses."""
    if not isinstance(url, str):
        raise NotTranslatable(path, "invalid type, expected str")
    if url[:5].lower() != "data:":
        return {"type": "url", "url": url}
    label, data = _inline(url, path)
    media_type = next((kind for begin, kind in _IMAGE_BEGINNINGS if data.startswith(begin)), label)
    if media_type not in _IMAGE_TYPES:
        raise NotTranslatable(path, f"Anthropic accepts JPEG, PNG, GIF and WebP images, not '{media_type}'")
    return {"type": "base64", "media_type": media_type, "data": data}


def document_source(file: dict[str, Any], path: str) -> dict[str, str]:
    """Return the source of a document block. Raises NotTranslatable naming a type that Anthropic refuses."""
    url = file["file_data"]
    label, data = _inline(url, path) if url[:5].lower() == "data:" else (_DOCUMENT_TYPE, url)
    if label == _DOCUMENT_TYPE:
        return {"type": "base64", "media_type": label, "data": data}
    if label.startswith("text/") or label in _TEXT_TYPES:
        return {"type": "text", "media_type": "text/plain", "data": _decoded_text(data, path)}
    raise NotTranslatable(path, f"Anthropic accepts PDF and text documents, not '{label}'")


def _inline(url: str, path: str) -> tuple[str, str]:
    """(media type in Anthropic's spelling, base64 data) of a data URL."""
    match = _DATA_URL.match(url)
    if match is None:
        raise NotTranslatable(path, "data URLs must be base64 with a media type")
    label = (match.group(1) or "application/octet-stream").lower()
    return _TYPE_ALIASES.get(label, label), url[match.end() :]


def _decoded_text(data: str, path: str) -> str:
    try:
        return base64.b64decode(data).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise NotTranslatable(path, "the document is not valid text in base64") from error
