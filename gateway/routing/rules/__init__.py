"""Rules: each takes what is known and says why a candidate may not serve (a reason), or None. Pure.

To add one: a file like `capability.py`, a line here, a table of accept and refuse.
"""

from . import binding, capability, carriage, circuit, energy_cap, role

FORBIDDING = (capability.forbids, binding.forbids, carriage.forbids, energy_cap.forbids, role.forbids, circuit.forbids)
