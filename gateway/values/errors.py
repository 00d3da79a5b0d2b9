"""The error tree, split by whose turn it is.

    PenstockError
    ├── CallerError         4xx: the caller sent something that cannot be served; sending it again will not help
    │   ├── BadRequest          400
    │   ├── NotCarriable        400: a field that cannot be said in the dialect of a deployment
    │   ├── Unauthenticated     401
    │   ├── NotFound            404
    │   ├── MethodNotAllowed    405
    │   ├── BodyTooLarge        413
    │   └── UpgradeRequired     426
    ├── UpstreamError       502/503/504: a provider failed; `retryable` says whether another attempt makes sense
    │   ├── Unreachable         nothing was sent, so nothing was spent
    │   ├── UpstreamTimeout     sent, and nothing came in time: what it cost is unknown
    │   └── BrokenAnswer        the answer began and cannot be understood, or ended too early
    │       └── UnreadableAnswer    it came whole, in no shape that we know: no sign that its deployment is down
    ├── CallerGone          the caller hung up: there is nobody to answer
    ├── Overloaded          503: one of our own queues is full or the ledger cannot be written
    └── ConfigError         the configuration is wrong; carries every complaint at once

Expected refusals (budgets, caps, loops) are values (`values.plan.Refusal`), not exceptions.
"""

from collections.abc import Sequence


class PenstockError(Exception):
    """Base of the tree: `status` is HTTP's, `code` is stable and documented in docs/errors.md."""

    status = 500
    code = "internal_error"
    retry_after_seconds: int | None = None

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
    """The body or a header cannot be understood."""


class NotTranslatable(CallerError):
    """A part of the request that has no counterpart in the dialect that a deployment speaks; `param` names it."""

    code = "not_carriable"

    def __init__(self, param: str, why: str) -> None:
        super().__init__(f"'{param}' cannot be carried over: {why}.", param=param)


class Unauthenticated(CallerError):
    """No key, or one that we do not know."""

    status = 401
    code = "invalid_api_key"


class NotFound(CallerError):
    """No such path or route."""

    status = 404
    code = "not_found"


class MethodNotAllowed(CallerError):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class BodyTooLarge(CallerError):
    """The body is over the configured limit."""

    status = 413
    code = "body_too_large"


class UpgradeRequired(CallerError):
    """Another protocol was asked for than the one that is spoken here."""

    status = 426
    code = "upgrade_required"


class UpstreamError(PenstockError):
    """The provider's turn: `retryable` says whether another attempt may help."""

    status = 502
    code = "upstream_error"
    retryable = True


class Unreachable(UpstreamError):
    """The connection was never made: nothing was sent, nothing was spent."""

    code = "upstream_unreachable"


class UpstreamTimeout(UpstreamError):
    """Sent, and no answer in time: what the provider spent is unknown."""

    status = 504
    code = "upstream_timeout"


class BrokenResponse(UpstreamError):
    """The answer began and cannot be understood, or ended too early."""

    code = "upstream_broken"
    retryable = False


class UnreadableResponse(BrokenResponse):
    """An answer came that we cannot make sense of. It says nothing about whether its deployment is up."""


class CallerDisconnected(PenstockError):
    """The caller hung up while we were answering."""

    status = 499
    code = "caller_gone"


class Overloaded(PenstockError):
    """Our own limit: a full queue or a ledger that cannot be written."""

    status = 503
    code = "overloaded"


class ConfigError(PenstockError):
    """Every complaint about a configuration at once, each as `file:line:column: wrong, right`."""

    code = "config_error"

    def __init__(self, complaints: Sequence[str]) -> None:
        super().__init__("\n".join(complaints))
        self.problems = tuple(complaints)
