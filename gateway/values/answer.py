"""What goes back to the caller when it is not a stream."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer; `streamed` True means that it has already been sent through the caller's Reply."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)
    streamed: bool = False
