"""What every value of the hot path is: a frozen struct, several times cheaper to make than a frozen dataclass.

Made by the dozen for each request, so they stay out of the garbage collector's sight (a frozen value cannot be part of
a cycle). Subclasses repeat `frozen=True, kw_only=True`: type checkers read it there, and keyword-only is per class.
docs/adr/0002 has the figures.
"""

import msgspec


class Value(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Base of the values that a request makes."""
