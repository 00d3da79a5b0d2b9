"""Agent roles: declared, matched, or remembered from a fingerprint.

A fingerprint is a digest of the head of the system prompt and of the tools, the same in all calls of an agent. State:
fingerprints that came with a declared role are remembered, bounded.
"""

from collections import OrderedDict
from collections.abc import Sequence
from fnmatch import fnmatchcase

from ..values.plan import RequestFeatures
from ..values.quality import Role

_FINGERPRINTS_MAX = 10_000


class AgentRoles:
    """Last declared role by key and fingerprint; keys do not share agents."""

    def __init__(self) -> None:
        self._role_by_fingerprint: OrderedDict[tuple[str, int], str] = OrderedDict()

    def resolve(
        self,
        roles: Sequence[Role],
        features: RequestFeatures,
        key: str,
        *,
        declared: str | None,
        agent: str,
        sub_agent: bool,
    ) -> Role | None:
        """The role of a request, None if it plays none.

        declared: the role header
        agent: name of the agent, "" if unknown
        sub_agent: whether the session has a parent
        """
        if not roles:
            return None
        if declared is not None:
            declared_role = next((role for role in roles if role.name == declared), None)
            if declared_role is not None:
                if features.agent_fingerprint:
                    self._remember((key, features.agent_fingerprint), declared)
                return declared_role
        for role in roles:
            if _matches(role, features, agent, sub_agent):
                return role
        remembered = (
            self._role_by_fingerprint.get((key, features.agent_fingerprint)) if features.agent_fingerprint else None
        )
        return next((role for role in roles if role.name == remembered), None)

    def _remember(self, fingerprint: tuple[str, int], name: str) -> None:
        self._role_by_fingerprint[fingerprint] = name
        self._role_by_fingerprint.move_to_end(fingerprint)
        if len(self._role_by_fingerprint) > _FINGERPRINTS_MAX:
            self._role_by_fingerprint.popitem(last=False)


def _matches(role: Role, features: RequestFeatures, agent: str, sub_agent: bool) -> bool:
    if agent and any(fnmatchcase(agent, pattern) for pattern in role.agents):
        return True
    if role.words and role.words <= features.system_words:
        return True
    if not role.tools.isdisjoint(features.tool_names):
        return True
    return role.sub_agents and sub_agent
