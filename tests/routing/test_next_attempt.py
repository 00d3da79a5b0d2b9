"""What follows a failed attempt, as a table."""

from typing import Any

import pytest

from gateway.routing.next_attempt import NextAttempt, next_attempt

FAILED: dict[str, Any] = {
    "index": 0, "next_index": 1, "calls_made": 1, "max_retries": 2, "retry_same": True, "retry_other": True,
    "retry_after": None, "jitter": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "change, index, wait",
    [
        ({}, 1, 0.0),
        ({"retry_after": 60.0}, 1, 0.0),
        ({"retry_other": False}, 0, 0.05),
        ({"index": 1, "next_index": None}, 1, 0.05),
        ({"index": 1, "next_index": None, "jitter": 0.5}, 1, 0.075),
        ({"index": 1, "next_index": None, "calls_made": 2}, 1, 0.2),
        ({"index": 1, "next_index": None, "calls_made": 9, "max_retries": 9}, 1, 0.5),
        ({"index": 1, "next_index": None, "retry_after": 2.0}, 1, 2.0),
        ({"index": 1, "next_index": None, "retry_after": 0.0}, 1, 0.0),
    ],
    ids=[
        "another deployment first", "without waiting", "the same where no other helps", "the same where none is left",
        "jitter adds to the backoff", "the second wait is longer", "the wait is bounded", "the provider's own wait",
        "an immediate retry",
    ],
)  # fmt: skip
def test_an_attempt_follows(change, index, wait):
    following = next_attempt(**{**FAILED, **change})
    assert following is not None and following.index == index
    assert following.wait_seconds == pytest.approx(wait)


@pytest.mark.parametrize(
    "change",
    [
        {"retry_same": False, "retry_other": False},
        {"index": 1, "next_index": None, "retry_same": False},
        {"index": 1, "next_index": None, "calls_made": 3},
        {"index": 1, "next_index": None, "max_retries": 0},
        {"index": 1, "next_index": None, "retry_after": 2.1},
    ],
    ids=["nothing helps", "no other is left", "the retries are used up", "no retries are allowed", "too long a wait"],
)
def test_the_request_is_given_up(change):
    assert next_attempt(**{**FAILED, **change}) is None


DEFAULTS: dict[str, Any] = {"index": 0, "next_index": None, "calls_made": 1, "max_retries": 1, "retry_same": True, "retry_other": True, "retry_after": None, "jitter": 0.5}  # fmt: skip


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"next_index": 1}, NextAttempt(index=1, wait_seconds=0.0)),
        ({}, NextAttempt(index=0, wait_seconds=0.1 * 0.75)),
        ({"calls_made": 2}, None),
        ({"retry_same": False}, None),
        ({"next_index": 1, "retry_other": False, "retry_same": False}, None),
        ({"retry_after": 1.5}, NextAttempt(index=0, wait_seconds=1.5)),
        ({"retry_after": 3600.0}, None),
        ({"index": 1, "calls_made": 1}, NextAttempt(index=1, wait_seconds=0.075)),
    ],
    ids=[
        "another deployment before waiting", "the same one after a short wait", "no more retries than allowed",
        "no retry where it cannot help", "a rejected request is not tried elsewhere", "retry-after is respected",
        "a long retry-after ends the request", "the last deployment may be retried",
    ],
)  # fmt: skip
def test_the_next_attempt(change, expected):
    following = next_attempt(**{**DEFAULTS, **change})
    assert (following and (following.index, round(following.wait_seconds, 6))) == (
        expected and (expected.index, round(expected.wait_seconds, 6))
    )
