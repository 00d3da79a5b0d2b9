"""What goes back to the caller when it is not a stream."""

from collections.abc import Mapping

from .base import Value


class CallerResponse(Value, frozen=True, kw_only=True):
    """A whole answer; `streamed` True means that it has already been sent through the caller's Reply."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    already_sent: bool = False
