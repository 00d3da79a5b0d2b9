"""Which part an agent plays in its session: by a header, by its fingerprint, or because one like it said so before.

A fingerprint is the head of the system prompt and the names of the tools: what an agent's makers gave it, the same in
all its calls. A book: fingerprints that came with a header are remembered, bounded.
"""

from collections import OrderedDict
from collections.abc import Sequence
from fnmatch import fnmatchcase

from ..values.plan import Facts
from ..values.quality import Role

_FINGERPRINTS_MAX = 10_000


class RoleBook:
    """Fingerprints and the role that was declared with each last, by key: one caller's agents are no one else's."""

    def __init__(self) -> None:
        self._declared: OrderedDict[tuple[str, int], str] = OrderedDict()

    def role(
        self, roles: Sequence[Role], facts: Facts, key: str, *, declared: str | None, agent: str, sub_agent: bool
    ) -> Role | None:
        """The role of a request; None where it plays none. `declared` is the header, `agent` the agent's name."""
        if not roles:
            return None
        if declared is not None:
            found = next((role for role in roles if role.name == declared), None)
            if found is not None:
                if facts.fingerprint:
                    self._remember((key, facts.fingerprint), declared)
                return found
        for role in roles:
            if _plays(role, facts, agent, sub_agent):
                return role
        learnt = self._declared.get((key, facts.fingerprint)) if facts.fingerprint else None
        return next((role for role in roles if role.name == learnt), None)

    def _remember(self, fingerprint: tuple[str, int], name: str) -> None:
        self._declared[fingerprint] = name
        self._declared.move_to_end(fingerprint)
        if len(self._declared) > _FINGERPRINTS_MAX:
            self._declared.popitem(last=False)


def _plays(role: Role, facts: Facts, agent: str, sub_agent: bool) -> bool:
    if agent and any(fnmatchcase(agent, pattern) for pattern in role.agents):
        return True
    if role.words and role.words <= facts.system_words:
        return True
    if not role.tools.isdisjoint(facts.tool_names):
        return True
    return role.sub_agents and sub_agent
