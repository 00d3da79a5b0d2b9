"""Roles of agents: declared, matched, or remembered by fingerprint."""

from typing import Any

import msgspec
import pytest

from gateway.routing.agent_roles import AgentRoles
from gateway.values.quality import Role
from tests.routing.test_classify import features_of

ROLES = (
    Role(name="explorer", agents=("explore*",)),
    Role(name="reviewer", words=frozenset({"review", "diff"})),
    Role(name="builder", tools=frozenset({"bash"})),
    Role(name="helper", sub_agents=True),
)


def role(
    roles: AgentRoles,
    *,
    key: str = "k1",
    fingerprint: int = 0,
    words: str = "",
    tools: frozenset[str] = frozenset(),
    **hints: Any,
) -> str:
    """The name of the role that a request plays, "" for none."""
    features = msgspec.structs.replace(
        features_of("hi"), agent_fingerprint=fingerprint, system_words=frozenset(words.split()), tool_names=tools
    )
    resolved = roles.resolve(ROLES, features, key, **{"declared": None, "agent": "", "sub_agent": False, **hints})
    return resolved.name if resolved is not None else ""


@pytest.mark.parametrize(
    "hints, name",
    [
        ({}, ""),
        ({"agent": "explorer-2"}, "explorer"),
        ({"agent": "Explorer"}, ""),
        ({"words": "please review the diff"}, "reviewer"),
        ({"words": "please review"}, ""),
        ({"tools": frozenset({"bash", "edit"})}, "builder"),
        ({"sub_agent": True}, "helper"),
        ({"sub_agent": True, "agent": "explore"}, "explorer"),
        ({"declared": "helper", "agent": "explore"}, "helper"),
        ({"declared": "unknown", "agent": "explore"}, "explorer"),
    ],
    ids=[
        "none", "by name", "case matters", "by all of its words", "not by some of them", "by a tool", "as a sub-agent",
        "the first that matches", "as declared", "an unknown declaration is ignored",
    ],
)  # fmt: skip
def test_a_role_is_declared_or_matched(hints, name):
    assert role(AgentRoles(), **hints) == name


def test_an_agent_keeps_the_role_that_it_declared():
    roles = AgentRoles()
    assert role(roles, fingerprint=7) == ""
    role(roles, fingerprint=7, declared="reviewer")
    assert role(roles, fingerprint=7) == "reviewer"
    assert role(roles, fingerprint=8) == "" and role(roles, key="k2", fingerprint=7) == ""
    assert role(roles, fingerprint=7, agent="explore") == "explorer", "a match comes first"


def test_an_agent_without_a_fingerprint_is_not_remembered():
    roles = AgentRoles()
    role(roles, declared="reviewer")
    assert role(roles) == ""


def test_remembered_agents_are_bounded():
    roles = AgentRoles()
    for fingerprint in range(1, 10_002):
        role(roles, fingerprint=fingerprint, declared="reviewer")
    assert role(roles, fingerprint=1) == "" and role(roles, fingerprint=2) == "reviewer"


def test_without_configured_roles_there_is_none():
    assert AgentRoles().resolve((), features_of("hi"), "k1", declared="helper", agent="", sub_agent=True) is None
