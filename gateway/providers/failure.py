"""What an error of a provider means: for the next attempt, for the circuit breaker, for the caller. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from msgspec import structs

from ..values.base import Value

# Statuses that a retry may cure, and those that mean a problem with our key or account.
_RETRYABLE_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_ACCOUNT_STATUSES = frozenset({401, 402, 403})


# Codes of docs/errors.md that several rules refer to.
REJECTED, CONTEXT_OVERFLOW, MODEL_NOT_FOUND = "provider_rejected", "context_length_exceeded", "provider_model_not_found"
# A request that is too long: OpenAI, vLLM, Groq, Mistral, Anthropic, Gemini, Bedrock, Cohere, llama.cpp (error pages and
# recorded answers, 2025-2026). vLLM's and llama.cpp's older servers answer 500.
_CONTEXT_STATUSES = (400, 413, 422, 500)
_CONTEXT_CODES = (
    "context_length_exceeded",
    "string_above_max_length",
    "context_window_exceeded",
    "exceed_context_size_error",
)
_CONTEXT_WORDS = re.compile(
    r"maximum context length|max(imum)? context|context (length|window|size) (of|is|exceed|limit)|exceeds? (the |this )?"
    r"(model'?s? |available |maximum )?(context|input token)|prompt is too long|input is too long|prompt too long|"
    r"too many (input )?tokens|input token count .{0,80}exceeds|reduce the length of the|too large for model with",
    re.IGNORECASE,
)
_CONTEXT_LIMIT = re.compile(
    r"maximum context length (?:is|of) (\d[\d,]{2,9})|(\d[\d,]{2,9}) maximum context|> (\d[\d,]{2,9}) maximum|"
    r"number of tokens allowed \(?(\d[\d,]{2,9})|context (?:window|size|length) (?:is |of )?\(?(\d[\d,]{2,9})",
    re.IGNORECASE,
)
# A model, or a path, that does not exist there: OpenAI, Anthropic, Google, Groq, Mistral, DeepSeek, Together, Ollama,
# OpenRouter, Azure, Bedrock (error pages, 2026).
_NO_SUCH_PATH_STATUSES = (404, 405, 410)
_MODEL_CODES = (
    "model_not_found", "model_decommissioned", "model_not_available", "invalid_model", "DeploymentNotFound",
    "model_not_supported", "unknown_model",
)  # fmt: skip
_MODEL_WORDS = re.compile(
    r"\bmodel\b.{0,120}\b(does not exist|doesn't exist|not exist|not found|decommissioned|retired|has been deprecated|"
    r"is not a valid model|is not available)|(invalid|unknown|unsupported) model\b|not a valid model|model identifier is invalid|"
    r"no endpoints found",
    re.IGNORECASE,
)
# Our key or account, under a status that says nothing of it: Google (400 API_KEY_INVALID), xAI and Anthropic (400),
# Fireworks (412), DeepSeek, Moonshot, Alibaba (error pages, 2026). What a message quotes is the caller's and not read.
_ACCOUNT_WORD_STATUSES = (400, 412, 422)
_ACCOUNT_CODES = frozenset(
    {
        "invalid_api_key", "incorrect_api_key", "api_key_invalid", "api_key_expired", "account_deactivated",
        "organization_disabled", "billing_not_active", "insufficient_quota", "insufficient_balance", "arrearage",
        "credit_balance_exhausted", "billing_hard_limit_reached", "billing_error",
    }
)  # fmt: skip
_ACCOUNT_WORDS = re.compile(
    r"(incorrect|invalid|expired) api key|api key (is )?(not valid|invalid|expired)|"
    r"account (is|has been) (suspended|disabled|deactivated|terminated)|organization has been disabled|"
    r"credit balance is too low|api usage limits|insufficient (balance|credits?|funds)|spending limit|billing (hard )?limit",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`")
# A 403 about the content rather than the account (OpenRouter: moderation).
_CONTENT_WORDS = re.compile(r"moderation|flagged|content policy|safety", re.IGNORECASE)
# Error names and the statuses below 500 that they have elsewhere (OpenAI, Anthropic, Google, vLLM; error pages, 2026).
_STATUS_BY_ERROR_NAME = {
    "invalid_request_error": 400, "badrequesterror": 400, "invalid_argument": 400, "context_length_exceeded": 400,
    "invalid_prompt": 400, "failed_precondition": 400, "authentication_error": 401, "invalid_api_key": 401,
    "unauthenticated": 401, "billing_error": 402, "permission_error": 403, "permission_denied": 403,
    "not_found_error": 404, "not_found": 404, "model_not_found": 404, "notfounderror": 404, "request_too_large": 413,
    "rate_limit_error": 429, "rate_limit_exceeded": 429, "rate_limited": 429, "insufficient_quota": 429,
    "tokens": 429, "requests": 429, "resource_exhausted": 429, "too_many_requests": 429,
}  # fmt: skip


class ProviderFailure(Value, frozen=True, kw_only=True):
    """What an error status means for the next attempt and for the caller.

    retry_same: the same deployment may be tried again
    try_other: another deployment may be tried; with neither, the response goes to the caller
    code: error code, see docs/errors.md
    hides_message: the provider's message must not reach the caller
    message: the provider's message in plain text, "" for none
    provider_code: the provider's own code, "" for none
    param: the field of the request that it names, None for none
    blames_deployment: our configuration or account is at fault, not the request
    context_tokens: the longest context that the message names, tokens; 0: it names none
    """

    retry_same: bool
    try_other: bool
    code: str
    hides_message: bool
    message: str = ""
    provider_code: str = ""
    param: str | None = None
    blames_deployment: bool = False
    context_tokens: int = 0

    @property
    def is_rate_limit(self) -> bool:
        """Whether the deployment asks for a pause."""
        return self.code == "provider_rate_limited"

    @property
    def is_context_overflow(self) -> bool:
        """Whether the request is too long for the model."""
        return self.code == CONTEXT_OVERFLOW


_ACCOUNT = ProviderFailure(
    retry_same=False, try_other=True, code="provider_account", hides_message=True, blames_deployment=True
)
_REDIRECT = ProviderFailure(
    retry_same=False, try_other=True, code="upstream_error", hides_message=True, blames_deployment=True
)
_UNKNOWN_MODEL = ProviderFailure(
    retry_same=False, try_other=True, code=MODEL_NOT_FOUND, hides_message=False, blames_deployment=True
)
_RATE_LIMITED = ProviderFailure(retry_same=True, try_other=True, code="provider_rate_limited", hides_message=False)
_UNAVAILABLE = ProviderFailure(retry_same=True, try_other=True, code="upstream_error", hides_message=True)
_OVERFLOW = ProviderFailure(retry_same=False, try_other=True, code=CONTEXT_OVERFLOW, hides_message=False)
_REQUEST_REJECTED = ProviderFailure(retry_same=False, try_other=False, code=REJECTED, hides_message=False)


def failure_of_status(status: int, error: Mapping[str, Any], *, is_billing: bool) -> ProviderFailure:
    """What an error status means; `error`: its error object, `is_billing`: our account may not spend more."""
    message, code = str(error.get("message") or ""), error.get("code")
    failure = _failure_kind(status, message, error, is_billing=is_billing)
    param = error.get("param")
    return structs.replace(
        failure,
        message=message,
        provider_code=code if isinstance(code, str) else "",
        param=param if isinstance(param, str) else None,
    )


def _failure_kind(status: int, message: str, error: Mapping[str, Any], *, is_billing: bool) -> ProviderFailure:
    if is_billing or _is_account(status, message, error):
        return _ACCOUNT
    if status < 400:
        # Redirects are not followed: they would send the key elsewhere.
        return _REDIRECT
    if _is_context_overflow(status, message, error.get("code")):
        limit = _CONTEXT_LIMIT.search(message)
        tokens = int(next(filter(None, limit.groups())).replace(",", "")) if limit else 0
        return structs.replace(_OVERFLOW, context_tokens=tokens)
    if status == 429:
        return _RATE_LIMITED
    if status in _RETRYABLE_STATUSES or status >= 500:
        return _UNAVAILABLE
    # Else the request itself is rejected, as it would be elsewhere: the provider's message helps the caller most.
    return _UNKNOWN_MODEL if _is_unknown_model(status, message, error) else _REQUEST_REJECTED


def status_of_error(document: Mapping[str, Any]) -> int:
    """The status that an error body under status 200 amounts to: by its number, else by its name, else 502."""
    error = document.get("error")
    for holder in (error, document):
        if not isinstance(holder, Mapping):
            continue
        for name in ("status_code", "status", "code", "http_status"):
            value = holder.get(name)
            number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
            if isinstance(number, int) and 400 <= number <= 599:
                return number
        for name in ("code", "status", "type"):
            value = holder.get(name)
            if isinstance(value, str) and value.lower() in _STATUS_BY_ERROR_NAME:
                return _STATUS_BY_ERROR_NAME[value.lower()]
    return 502


def _is_account(status: int, message: str, error: Mapping[str, Any]) -> bool:
    """Whether our key or account is refused."""
    if status in _ACCOUNT_STATUSES:
        return status != 403 or _CONTENT_WORDS.search(message) is None
    names = (error.get(name) for name in ("code", "type", "status"))
    if any(isinstance(name, str) and name.lower() in _ACCOUNT_CODES for name in names):
        return True
    return status in _ACCOUNT_WORD_STATUSES and _ACCOUNT_WORDS.search(_QUOTED.sub("", message)) is not None


def _is_context_overflow(status: int, message: str, code: Any) -> bool:
    return status in _CONTEXT_STATUSES and (
        (isinstance(code, str) and code in _CONTEXT_CODES) or _CONTEXT_WORDS.search(message) is not None
    )


def _is_unknown_model(status: int, message: str, error: Mapping[str, Any]) -> bool:
    """Whether the name of the model or the path is unknown: both were written by our configuration."""
    if status in _NO_SUCH_PATH_STATUSES:
        return True
    return status in (400, 422) and (
        error.get("code") in _MODEL_CODES
        or error.get("param") == "model"
        or _MODEL_WORDS.search(_QUOTED.sub("", message)) is not None
    )
