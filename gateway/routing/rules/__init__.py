"""Rules: each takes what is known and says why a candidate may not serve (a reason), or None. Pure.

To add one: a file like `capability.py`, a line here, a table of accept and refuse.
"""

from . import batch, binding, capability, carriage, circuit, footprint_cap, role, zone

FORBIDDING = (
    capability.forbids,
    binding.forbids,
    carriage.forbids,
    footprint_cap.forbids,
    zone.forbids,
    batch.forbids,
    role.forbids,
    circuit.forbids,
)
