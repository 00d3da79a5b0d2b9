"""Who the end user is."""

import pytest

from gateway.sessions.end_users import OVERFLOW_USER, UserLimiter, parse_user


@pytest.mark.parametrize(
    "told, user",
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
def test_the_user_within_what_was_told(told, user):
    assert parse_user(told) == user


def test_long_names_stay_apart():
    one, two = parse_user("x" * 200 + "1"), parse_user("x" * 200 + "2")
    assert one != two and len(one) < 100


def test_a_key_that_makes_up_users_without_end_gets_one_for_the_rest():
    book = UserLimiter(most=2)
    names = [book.admit("k", user, now=0) for user in ("a", "b", "c", "a", "")]
    assert names == ["a", "b", OVERFLOW_USER, "a", ""]
    assert book.admit("other", "c", now=0) == "c"
    assert book.admit("k", "c", now=86_400) == "c"
