"""Access control of the simulated provider: keys, versions, unknown paths."""

from collections.abc import Mapping

from .dialects.errors import ApiError

_MISSING_KEY_MESSAGE = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth"
    " (i.e. Authorization: Bearer YOUR_KEY)."
)


def expects_anthropic(path: str, headers: Mapping[str, str]) -> bool:
    """Whether the caller expects Anthropic's response shapes."""
    return path.startswith("/v1/messages") or "anthropic-version" in headers


def unknown_path_error(method: str, path: str, anthropic: bool) -> ApiError:
    """The error for a path that is not served."""
    message = f"Not found: {path}" if anthropic else f"Invalid URL ({method} {path})"
    return ApiError(status=404, message=message)


def access_error(headers: Mapping[str, str], key: str | None, strict: bool, anthropic: bool) -> ApiError | None:
    """Why this caller is rejected; without a configured key all are accepted."""
    bearer = _bearer_token(headers.get("Authorization"))
    if not anthropic:
        return _openai_access_error(bearer, key) if key is not None else None
    if key is not None and key not in (bearer, headers.get("x-api-key")):
        invalid = "Invalid bearer token" if bearer else "invalid x-api-key"
        sent = bearer or headers.get("x-api-key")
        return ApiError(status=401, message=invalid if sent else "x-api-key header is required")
    if (key is not None or strict) and not headers.get("anthropic-version"):
        return ApiError(message="anthropic-version: header is required")
    return None


def _openai_access_error(bearer: str | None, key: str) -> ApiError | None:
    if bearer == key:
        return None
    if not bearer:
        return ApiError(status=401, message=_MISSING_KEY_MESSAGE)
    return ApiError(status=401, message=f"Incorrect API key provided: {bearer[:3]}***.", openai_code="invalid_api_key")


def _bearer_token(authorization: str | None) -> str | None:
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
