"""Which part an agent plays in its session: by a header, by its fingerprint, or because one like it said so before.

A fingerprint is the head of the system prompt and the names of the tools: what an agent's makers gave it, the same in
all its calls. A book: fingerprints that came with a header are remembered, bounded.
"""

from collections import OrderedDict
from collections.abc import Sequence
from fnmatch import fnmatchcase

from ..values.plan import RequestFeatures
from ..values.quality import Role

_FINGERPRINTS_MAX = 10_000


class AgentRoles:
    """Fingerprints and the role that was declared with each last, by key: one caller's agents are no one else's."""

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
        """The role of a request; None where it plays none. `declared` is the header, `agent` the agent's name."""
        if not roles:
            return None
        if declared is not None:
            found = next((role for role in roles if role.name == declared), None)
            if found is not None:
                if features.agent_fingerprint:
                    self._remember((key, features.agent_fingerprint), declared)
                return found
        for role in roles:
            if _matches(role, features, agent, sub_agent):
                return role
        learnt = (
            self._role_by_fingerprint.get((key, features.agent_fingerprint)) if features.agent_fingerprint else None
        )
        return next((role for role in roles if role.name == learnt), None)

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
