"""The base class of per-request values: frozen, cheaper than a frozen dataclass.

Each request builds dozens of them, so they are hidden from the garbage collector (a frozen value cannot be part of a
cycle). Subclasses repeat `frozen=True, kw_only=True`: type checkers read it there, and keyword-only is per class.
docs/adr/0002 has the figures.
"""

import msgspec


class Value(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Base of the values that each request builds."""
