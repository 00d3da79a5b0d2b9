"""The error tree, by who has to act.

The caller's turn: the request has to change
    PenstockError
    └── CallerError             4xx
        ├── BadRequest          400
        ├── NotTranslatable     400  a field without a counterpart in the deployment's dialect
        ├── Unauthenticated     401
        ├── NotFound            404
        ├── MethodNotAllowed    405
        ├── BodyTooLarge        413
        ├── UnsupportedEncoding 415
        └── UpgradeRequired     426

The caller's or the operator's turn: a limit refused the request, nothing was dialled
    Refusal                     a value, not an exception (values/plan.py): budgets, caps, loops, no
                                eligible deployment; its status depends on the dialect (docs/errors.md)

The provider's turn: `retryable` says whether another attempt may help
    PenstockError
    └── UpstreamError           502/503/504
        ├── Unreachable         502  nothing was sent, nothing was spent
        ├── UpstreamTimeout     504  sent, no answer in time; the cost is unknown
        └── BrokenResponse      502  not retryable: the answer is invalid or ended early
            └── UnreadableResponse   complete but in an unknown shape; the deployment counts as up

Our turn
    PenstockError
    ├── CallerDisconnected      499  the caller hung up, no response is sent
    ├── Overloaded              503  one of our queues is full, or a store cannot be written
    └── ConfigError             the configuration is invalid; carries every problem at once
"""

from collections.abc import Mapping, Sequence


class PenstockError(Exception):
    """Base of the tree.

    status: HTTP status
    code: stable, documented in docs/errors.md
    retry_after_seconds: sent as Retry-After; None: not sent
    param: the field of the request that is wrong
    headers: further headers of the response, names in lower case
    """

    status = 500
    code = "internal_error"
    retry_after_seconds: int | None = None
    headers: Mapping[str, str] = {}

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class CallerError(PenstockError):
    """The caller's turn: the request itself has to change."""

    status = 400
    code = "invalid_request"


class BadRequest(CallerError):
    """The body or a header is invalid."""


class NotTranslatable(CallerError):
    """A field without a counterpart in the deployment's dialect; `param` names it."""

    code = "not_translatable"

    def __init__(self, param: str, reason: str) -> None:
        super().__init__(f"'{param}' cannot be translated: {reason}.", param=param)


class Unauthenticated(CallerError):
    """No API key, or an invalid one."""

    status = 401
    code = "invalid_api_key"
    # RFC 9110, 11.6.1: the response has to name the scheme.
    headers: Mapping[str, str] = {"www-authenticate": "Bearer"}


class NotFound(CallerError):
    """No such path or route."""

    status = 404
    code = "not_found"


class MethodNotAllowed(CallerError):
    """The path exists, the method does not; `methods` are those that the path has."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, methods: Sequence[str]) -> None:
        super().__init__(message)
        # RFC 9110, 15.5.6: the response has to name them.
        self.headers = {"allow": ", ".join(methods)}


class BodyTooLarge(CallerError):
    """The body exceeds the configured limit."""

    status = 413
    code = "body_too_large"


class UnsupportedEncoding(CallerError):
    """The body has a content coding that is not decoded; `accepted` lists those that are."""

    status = 415
    code = "unsupported_encoding"

    def __init__(self, coding: str, accepted: str) -> None:
        message = f"Content-Encoding '{coding}' is not supported; send the body uncompressed, or as {accepted}."
        super().__init__(message, param="content-encoding")
        # RFC 9110, 15.5.16.
        self.headers = {"accept-encoding": accepted}


class UpgradeRequired(CallerError):
    """The request asks for a protocol that this endpoint does not support."""

    status = 426
    code = "upgrade_required"


class UpstreamError(PenstockError):
    """The provider's turn: `retryable` says whether another attempt may help."""

    status = 502
    code = "upstream_error"
    retryable = True


class Unreachable(UpstreamError):
    """No connection was made: nothing was sent, nothing was spent."""

    code = "upstream_unreachable"


class UpstreamTimeout(UpstreamError):
    """The request was sent and not answered in time: what it cost is unknown."""

    status = 504
    code = "upstream_timeout"


class BrokenResponse(UpstreamError):
    """The response is invalid or ended early."""

    code = "upstream_invalid_response"
    retryable = False


class UnreadableResponse(BrokenResponse):
    """A complete response of unknown shape, no sign that its deployment is down."""


class CallerDisconnected(PenstockError):
    """The caller hung up before the response was complete."""

    status = 499
    code = "client_closed_request"


class Overloaded(PenstockError):
    """Our own limit: a full queue, or a store that cannot be written."""

    status = 503
    code = "overloaded"


class ConfigError(PenstockError):
    """All problems of a configuration, each `file:line:column: problem, remedy`."""

    code = "config_error"

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
