"""The response to a caller that is not streamed."""

from collections.abc import Mapping

from .base import Value


class CallerResponse(Value, frozen=True, kw_only=True):
    """A whole response.

    already_sent: it was streamed to the caller; nothing is left to send
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    already_sent: bool = False
