"""Tests of end user names and their limit."""

import pytest

from gateway.sessions.end_users import OVERFLOW_USER, UserLimiter, parse_user


@pytest.mark.parametrize(
    "text, user",
    [
        (" ada ", "ada"),
        ("", ""),
        ("user_abc_account_1_session_2", "user_abc_account_1"),
        ('{"device_id": "d", "account_uuid": "a", "session_id": "s"}', "a"),
        ('{"device_id": "d", "account_uuid": ""}', "d"),
        ("{not json", "{not json"),
        ('["list"]', '["list"]'),
    ],
)
def test_parse_user_finds_the_user_in_the_field(text, user):
    assert parse_user(text) == user


def test_long_names_stay_distinct():
    first, second = parse_user("x" * 200 + "1"), parse_user("x" * 200 + "2")
    assert first != second and len(first) < 100


def test_users_beyond_the_limit_of_a_key_share_one():
    limiter = UserLimiter(most=2)
    names = [limiter.admit("k", user, now=0) for user in ("a", "b", "c", "a", "")]
    assert names == ["a", "b", OVERFLOW_USER, "a", ""]
    assert limiter.admit("other", "c", now=0) == "c"
    assert limiter.admit("k", "c", now=86_400) == "c"
