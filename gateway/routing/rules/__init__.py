"""Rules: each returns why a candidate may not serve the request, or None. Pure.

To add one: a file like `capability.py`, a line here, a table of accepted and excluded candidates in the tests.
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
