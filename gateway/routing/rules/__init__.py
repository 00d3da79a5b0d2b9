"""Rules: each takes what is known and says why a candidate may not serve (a reason), or None. Pure.

To add one: a file like `capability.py`, a line here, a table of accept and refuse.
"""

from . import affinity, batch, capability, circuit_breaker, footprint_cap, role, translation, zone

RULES = (
    capability.forbids,
    affinity.forbids,
    translation.forbids,
    footprint_cap.forbids,
    zone.forbids,
    batch.forbids,
    role.forbids,
    circuit_breaker.forbids,
)
