"""Approval tokens: genuine and unexpired, or worthless."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sessions.approval_token import create_token, verify_token
from tests.sessions.agent_requests import NOW

SECRET = b"secret"
TOKEN = create_token(SECRET, "k1", "run-1", "stop-1", until=NOW + 10)


def test_a_token_names_key_session_and_stop():
    assert verify_token(SECRET, TOKEN, now=NOW) == ("k1", "run-1", "stop-1")
    assert "=" not in TOKEN and TOKEN.count(".") == 1


@pytest.mark.parametrize("seconds, valid", [(0, True), (9.9, True), (10, False), (99, False)])
def test_a_token_expires(seconds, valid):
    assert (verify_token(SECRET, TOKEN, now=NOW + seconds) is not None) is valid


@given(position=st.integers(0, len(TOKEN) - 1), letter=st.sampled_from("abcXYZ019-_.é"))
def test_a_token_with_another_letter_is_rejected(position, letter):
    changed = TOKEN[:position] + letter + TOKEN[position + 1 :]
    verified = verify_token(SECRET, changed, now=NOW)
    # Unused bits of the last letter may change without changing the bytes.
    assert verified is None or (changed == TOKEN or position in (len(TOKEN) - 1, TOKEN.index(".") - 1))


@pytest.mark.parametrize("token", ["", ".", "a", "a.b", "é.é", "." * 3000, TOKEN.replace(".", ""), f"{TOKEN}.x"])
def test_text_of_another_shape_is_rejected(token):
    assert verify_token(SECRET, token, now=NOW) is None


def test_the_token_of_another_secret_is_rejected():
    assert verify_token(b"other", TOKEN, now=NOW) is None
