"""Caps on sessions: parsing, tightening, raising, duration and depth."""

import math

import pytest

from gateway.sessions import caps
from gateway.sessions.session_index import Session, SessionIndex
from gateway.values.budget import SessionCaps
from gateway.values.errors import BadRequest
from tests.sessions.agent_requests import NOW


def session() -> Session:
    return Session(id="s", source="header", started_at=NOW)


@pytest.mark.parametrize(
    "text, document",
    [
        ("usd=2, minutes=20", {"usd": 2.0, "minutes": 20.0}),
        (" calls = 5 ,depth=1,", {"calls": 5, "depth": 1}),
        ("tokens=0", {"tokens": 0}),
        ("sub_agents=3", {"sub_agents": 3}),
        ("", {}),
    ],
)
def test_a_caps_header_is_parsed_and_written_back(text, document):
    parsed = caps.parse_caps_header(text)
    assert caps.caps_to_json(parsed) == document
    assert caps.parse_caps(caps.caps_to_json(parsed)) == parsed


@pytest.mark.parametrize(
    "text, words",
    [
        ("dollars=2", "Unknown cap 'dollars'"),
        ("usd=2, usd=3", "Duplicate cap"),
        ("usd", "Invalid cap 'usd'"),
        ("usd=-1", "Invalid cap 'usd'"),
        ("usd=nan", "Invalid cap 'usd'"),
        ("usd=1e30", "Invalid cap 'usd'"),
        ("depth=65", "Invalid cap 'depth': must be a number from 0 to 64"),
        ("minutes=inf", "Invalid cap 'minutes'"),
        ("x" * 401, "longer than 400 characters"),
    ],
)
def test_an_invalid_caps_header_is_rejected_by_name(text, words):
    with pytest.raises(BadRequest, match=words) as raised:
        caps.parse_caps_header(text)
    assert raised.value.param == "caps"


def test_a_boolean_is_no_amount():
    with pytest.raises(BadRequest, match="Invalid cap 'calls'"):
        caps.parse_caps({"calls": True})


def test_caps_of_the_caller_only_tighten():
    capped = session()
    assert caps.tighten_caps(capped, caps.parse_caps({"usd": 2}))
    assert caps.tighten_caps(capped, caps.parse_caps({"usd": 1, "minutes": 5}))
    version = capped.own_caps_version
    assert not caps.tighten_caps(capped, caps.parse_caps({"usd": 3, "minutes": 9}))
    assert capped.own_caps is not None and capped.own_caps_version == version
    assert caps.caps_to_json(capped.own_caps) == {"usd": 1.0, "minutes": 5.0}


def test_an_operator_raises_what_is_capped_and_caps_nothing_new():
    own = caps.parse_caps({"usd": 1, "depth": 2, "minutes": 5})
    raised = caps.raise_caps(own, caps.parse_caps({"usd": 2, "calls": 9, "minutes": 10}))
    assert raised is not None and caps.caps_to_json(raised) == {"usd": 3.0, "depth": 2, "minutes": 15.0}
    assert caps.raise_caps(None, caps.parse_caps({"usd": 2})) is None


@pytest.mark.parametrize("seconds, exceeded", [(599, False), (600, False), (601, True)])
def test_a_session_may_run_for_its_duration(seconds, exceeded):
    limits = SessionCaps(duration_seconds_max=600.0)
    refused = caps.exceeded_cap(limits, session(), now=NOW + seconds)
    assert (refused is not None) is exceeded
    assert caps.seconds_left(limits, session(), now=NOW + seconds) == 600 - seconds
    if refused is not None:
        assert refused.code == "session_time_exceeded"
        assert refused.details == {"session": "s", "used_minutes": 10.0, "limit_minutes": 10.0}


def test_without_a_duration_cap_a_session_runs_forever():
    assert caps.seconds_left(SessionCaps(), session(), now=NOW) == math.inf
    assert caps.exceeded_cap(SessionCaps(), session(), now=NOW + 1e9) is None


def test_added_seconds_extend_a_duration_cap():
    extended = session()
    extended.extra_seconds = 60.0
    assert caps.exceeded_cap(SessionCaps(duration_seconds_max=600.0), extended, now=NOW + 650) is None


def test_the_caps_of_ancestors_apply():
    index = SessionIndex()
    root = index.get_or_create("k", "root", "header", now=NOW)
    child = index.get_or_create("k", "child", "header", now=NOW + 500, parent="root")
    grandchild = index.get_or_create("k", "grandchild", "header", now=NOW + 500, parent="child")
    caps.tighten_caps(root, caps.parse_caps({"minutes": 10, "depth": 1, "usd": 1}))
    refused = caps.exceeded_cap(SessionCaps(), child, now=NOW + 601)
    assert refused is not None and refused.code == "session_time_exceeded"
    refused = caps.exceeded_cap(SessionCaps(), grandchild, now=NOW + 500)
    assert refused is not None and (refused.code, refused.details["depth"]) == ("depth_exceeded", 2)
    (line,) = caps.cap_lines(SessionCaps(), grandchild, "k", now=NOW + 500).lines
    assert line.account == caps.own_cap_lines(root, "k", now=NOW)[0].account


def test_the_lines_of_a_session_are_cached_until_its_caps_change():
    capped = session()
    caps.tighten_caps(capped, caps.parse_caps({"usd": 2}))
    limits = SessionCaps()
    first = caps.cap_lines(limits, capped, "k", now=NOW)
    assert caps.cap_lines(limits, capped, "k", now=NOW) is first
    caps.tighten_caps(capped, caps.parse_caps({"usd": 1}))
    assert caps.cap_lines(limits, capped, "k", now=NOW).lines[0].ceiling == first.lines[0].ceiling // 2


def test_a_fork_has_left_what_its_path_did_not_use():
    fork = session()
    fork.inherited = (1_500_000_000, 0, 3, 0, 0)
    caps.tighten_caps(fork, caps.parse_caps({"usd": 2, "calls": 2}))
    ceilings = {line.budget.name: line.ceiling for line in caps.cap_lines(SessionCaps(), fork, "k", now=NOW).lines}
    assert ceilings == {"run-usd": 500_000_000, "run-calls": 0}


@pytest.mark.parametrize("factor", [0.0, 1.5, 3.0])
def test_caps_of_the_caller_are_held_as_the_operator_says(factor):
    capped = session()
    caps.tighten_caps(capped, caps.parse_caps({"usd": 2, "calls": 2}))
    lines = caps.cap_lines(SessionCaps(own_expected_factor=factor), capped, "k", now=NOW).lines
    assert {line.name: line.budget.expected_factor for line in lines} == {"run-usd": factor, "run-calls": 0.0}
    assert {line.name: line.ceiling for line in lines} == {"run-usd": 2_000_000_000, "run-calls": 2}
