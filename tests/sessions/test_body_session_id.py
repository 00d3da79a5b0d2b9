"""Session ids in the body: where agents write them, and what is no id."""

import json
from typing import Any

import msgspec
import pytest

from gateway.sessions.body_session_id import safe_session_id, session_in_body

UUID = "0b5f4a9e-1c2d-4e3f-8a9b-0123456789ab"
FIELDS = (("metadata.user_id", False), ("prompt_cache_key", True), ("session_id", False))


def found(**fields: Any) -> tuple[str, str] | None:
    return session_in_body({name: msgspec.Raw(json.dumps(value).encode()) for name, value in fields.items()}, FIELDS)


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({"session_id": "run-1"}, ("run-1", "session_id")),
        ({"prompt_cache_key": UUID}, (UUID, "prompt_cache_key")),
        ({"prompt_cache_key": "my-cache"}, None),
        ({"metadata": {"user_id": "user_1_account__session_" + UUID}}, (UUID, "metadata.user_id")),
        ({"metadata": {"user_id": json.dumps({"session_id": UUID, "device_id": "d"})}}, (UUID, "metadata.user_id")),
        ({"metadata": {"user_id": "alice"}}, None),
        ({"metadata": {"user_id": "{broken"}}, None),
        ({"metadata": "text"}, None),
        ({"session_id": 7}, None),
        ({"session_id": ""}, None),
        ({"session_id": "x" * 5000}, None),
        ({"metadata": {"user_id": "alice"}, "session_id": "run-1"}, ("run-1", "session_id")),
        ({}, None),
    ],
    ids=[
        "a field", "a UUID where one is required", "no UUID where one is required", "Claude Code of 2025", "Claude Code as JSON",
        "a user without a session", "broken JSON", "metadata as text", "a number", "empty", "too long to be an id",
        "the next field is tried", "nothing",
    ],
)  # fmt: skip
def test_a_session_is_found_in_the_first_field_that_has_an_id(fields, expected):
    assert found(**fields) == expected


def test_a_field_that_is_not_utf8_is_no_id():
    assert session_in_body({"session_id": msgspec.Raw(b'"\xff"')}, FIELDS) is None


def test_an_id_unfit_for_headers_becomes_its_digest():
    assert safe_session_id("run-1") == "run-1"
    assert safe_session_id("x" * 500) == "x" * 128
    for name in ("Łódź", "a\r\nb"):
        digest = safe_session_id(name)
        assert len(digest) == 32 and digest.isalnum() and digest == safe_session_id(name)
