"""Anthropic, and providers compatible with its Messages dialect. Pure.

Request -> call, answer -> Usage, error status -> failure.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from ..values.catalog import Deployment
from ..values.usage import NO_USAGE, FurtherCall, Usage, sum_of_counts
from . import upstream_call as calls
from .billed_extras import extras_beside_tokens
from .error_body import error_object
from .failure import ProviderFailure, failure_of_status
from .streamed_answer import OUTPUT_IS_PLACEHOLDER
from .upstream_call import UpstreamCall
from .usage_spellings import read_usage

SUPPORTED_DIALECTS = ("messages",)
OPTIONAL_DIALECTS: frozenset[str] = frozenset()
_FORWARDED_HEADERS = calls.FORWARDED_HEADERS | {
    "anthropic-version",
    "anthropic-beta",
    "anthropic-dangerous-direct-browser-access",
    "x-app",
}
_RETURNED_HEADER_PREFIXES = ("anthropic-",)
# API version for callers of other dialects (docs.anthropic.com, API versions).
_API_VERSION = "2023-06-01"
# Thinking budgets for models without "adaptive" thinking: Anthropic's minimum, and the budget of each effort, tokens.
_THINKING_TOKENS_MIN = 1024
_THINKING_TOKENS_BY_EFFORT = {"low": 2048, "medium": 8192, "high": 16384, "xhigh": 24576, "max": 24576}
# Entries of `usage.iterations`: their kinds, how many are read, and characters of a name.
_OWN_CALL, _FALLBACK = "message", "fallback_message"
_ITERATIONS_MAX, _NAME_CHARS_MAX = 256, 128
_SAMPLING_FIELDS = ("temperature", "top_p", "top_k")


def build_call(
    dialect: str, body: tuple[bytes | memoryview, ...], deployment: Deployment, headers: Mapping[str, str]
) -> UpstreamCall:
    """The call of one attempt; `headers` are the caller's, names in lower case."""
    # SDKs that send the beta header also set the query parameter.
    path = "/messages?beta=true" if "anthropic-beta" in headers else "/messages"
    return _upstream_call(dialect, path, body, deployment, headers, "application/json")


def build_passthrough_call(
    method: str, path: str, body: tuple[bytes | memoryview, ...], deployment: Deployment, headers: Mapping[str, str]
) -> UpstreamCall:
    """A call to any path below /v1, with the caller's content type."""
    return _upstream_call("passthrough", path, body, deployment, headers, headers.get("content-type", ""), method)


def with_output_limit(document: dict[str, Any], dialect: str, deployment: Deployment, tokens: int) -> dict[str, Any]:
    """The request with its output limit set to `tokens`.

    The thinking budget is part of output and stays below that.
    """
    limited = calls.with_output_limit(document, ("max_tokens",), tokens)
    thinking = limited.get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    if isinstance(thinking, dict) and isinstance(budget, int) and budget >= tokens:
        if tokens > _THINKING_TOKENS_MIN:
            limited["thinking"] = {**thinking, "budget_tokens": max(_THINKING_TOKENS_MIN, tokens // 2)}
        else:
            del limited["thinking"]
    return limited


def adapted_body(
    document: dict[str, Any], dialect: str, deployment: Deployment
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The body of a translated request, adapted to the deployment, and the names of what was dropped.

    Anthropic requires `max_tokens`, and its model generations differ in how thinking is requested.
    """
    adapted = {"model": deployment.model, "max_tokens": deployment.output_tokens_max, **document}
    dropped = []
    if "thinking" in adapted and not deployment.takes_reasoning_effort:
        del adapted["thinking"]
        dropped.append("thinking (the model does not think)")
    config = dict(adapted.pop("output_config", {}))
    if "thinking" in adapted and not deployment.adapts_thinking:
        budget = min(
            _THINKING_TOKENS_BY_EFFORT.get(str(config.pop("effort", "medium")), _THINKING_TOKENS_MIN),
            adapted["max_tokens"] - 1,
        )
        adapted["thinking"] = {"type": "enabled", "budget_tokens": budget}
        if budget < _THINKING_TOKENS_MIN:
            del adapted["thinking"]
            dropped.append("thinking (the output limit is too low)")
    if not deployment.adapts_thinking:
        config.pop("effort", None)
    if config:
        adapted["output_config"] = config
    choice = adapted.get("tool_choice")
    if "thinking" in adapted and isinstance(choice, dict) and choice.get("type") in ("any", "tool"):
        # Anthropic allows no forced tool with thinking.
        del adapted["thinking"]
        dropped.append("thinking (a tool is forced)")
    if "thinking" in adapted:
        dropped += [name for name in _SAMPLING_FIELDS if adapted.pop(name, None) not in (None, 1)]
    return adapted, tuple(dropped)


def returned_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The provider's headers that are returned to the caller; names in lower case."""
    return calls.returned_headers(headers, _RETURNED_HEADER_PREFIXES)


def usage_of(answer: Any) -> Usage | None:
    """Normalized usage of a whole answer, or of what a stream's meter kept of one; None where it reports none.

    Anthropic counts cache reads and writes in addition to `input_tokens`; thinking is part of output. All zero counts
    as invalid, and usage is estimated then.
    """
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(usage, dict):
        return None
    counts = read_usage(usage, caches_beside_input=True)
    if counts is not None and answer.get("stop_reason") == "refusal" and answer.get("content") == []:
        # A refusal before any output is not billed (Claude API release notes, 2026-06-02).
        return NO_USAGE
    iterations = usage.get("iterations")
    if isinstance(iterations, list) and iterations:
        counts = _with_iterations(counts, iterations[:_ITERATIONS_MAX])
    if counts is None:
        return None
    extras = _extras_of(answer, usage)
    if OUTPUT_IS_PLACEHOLDER in answer or (counts.output and not counts.input):
        extras["exact"] = False
    return structs.replace(counts, **extras) if extras else counts


def billed_extras_of(answer: Any) -> dict[str, Any]:
    """Fields of Usage that an answer sets although it reports no token counts."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    return _extras_of(answer, usage) if isinstance(usage, dict) else {}


def _extras_of(answer: dict[str, Any], usage: dict[str, Any]) -> dict[str, Any]:
    """What is billed beside tokens.

    The Priority Tier is capacity under contract without rates of its own; tokens draw it down at the ratios of the
    standard rates (platform.claude.com, service tiers, 2026-11).
    """
    extras = extras_beside_tokens(answer, usage)
    if extras.get("service_tier") == "priority":
        del extras["service_tier"]
    return extras


def failure_of(status: int, body: bytes) -> ProviderFailure:
    """What an error status means for this request.

    A spend limit is a 429 without retry-after, or a 400 for a workspace (docs.anthropic.com, errors, 2026).
    """
    error = error_object(body)
    message = str(error.get("message") or "")
    details = error.get("details")
    code = details.get("error_code") if isinstance(details, dict) else None
    lowered = message.lower()
    is_billing = (
        error.get("type") == "billing_error"
        or code == "enforced_spend_limit_reached"
        or (status == 400 and ("usage limits" in lowered or "credit balance is too low" in lowered))
    )
    return failure_of_status(status, error, is_billing=is_billing)


def _with_iterations(counts: Usage | None, entries: list[Any]) -> Usage | None:
    """Usage with the calls that `iterations` lists, priced by themselves: all but the last of the request's own.

    The counts beside `iterations` are those of its `message` entries together; where a fallback served the request,
    they are the fallback's, and what another model declined before any output is free. Compaction is in neither.
    """
    calls = [call for call in map(_call_of_iteration, entries) if call is not None]
    foreign = [call for call in calls if call.model]
    own = [call for call in calls if call.kind == _OWN_CALL]
    added = [call for call in calls if not call.model and call.kind != _OWN_CALL]
    if any(call.kind == _FALLBACK for call in foreign):
        own = [call for call in own if call.usage.output]
        counts = sum_of_counts(call.usage for call in own)
    elif counts is None:
        counts = sum_of_counts(call.usage for call in own)
    own_sum = sum_of_counts(call.usage for call in own)
    earlier = own[:-1] if (own_sum.input, own_sum.output) == (counts.input, counts.output) else []
    if earlier:
        # Entries do not say how much of their output is thinking; the last call has at most its own output of it.
        earlier = _with_thinking(earlier, counts.reasoning - min(counts.reasoning, own[-1].usage.output))
    counts = sum_of_counts([counts, *(call.usage for call in added)])
    return structs.replace(counts, further_calls=(*earlier, *added, *foreign))


def _with_thinking(calls: list[FurtherCall], thinking: int) -> list[FurtherCall]:
    """The calls with `thinking` tokens spread over their outputs."""
    spread = []
    for call in calls:
        part = min(thinking, call.usage.output)
        thinking -= part
        spread.append(structs.replace(call, usage=structs.replace(call.usage, reasoning=part)) if part else call)
    return spread


def _call_of_iteration(entry: Any) -> FurtherCall | None:
    """One entry of `iterations`; the model of the request's own calls is "" whether or not the entry names it."""
    usage = read_usage(entry, caches_beside_input=True) if isinstance(entry, dict) else None
    if usage is None:
        return None
    kind, model = str(entry.get("type") or _OWN_CALL)[:_NAME_CHARS_MAX], entry.get("model")
    is_own = kind == _OWN_CALL or not isinstance(model, str)
    return FurtherCall(model="" if is_own else str(model)[:_NAME_CHARS_MAX], kind=kind, usage=usage)


def _upstream_call(
    dialect: str,
    path: str,
    body: tuple[bytes | memoryview, ...],
    deployment: Deployment,
    headers: Mapping[str, str],
    content_type: str,
    method: str = "POST",
) -> UpstreamCall:
    base = deployment.base_url
    forwarded = {
        "anthropic-version": _API_VERSION,
        **calls.forwarded_headers(headers, _FORWARDED_HEADERS),
        "Accept-Encoding": "identity",
    }
    if content_type:
        forwarded["Content-Type"] = content_type
    if deployment.secret is not None:
        forwarded["x-api-key"] = deployment.secret
    url = f"{base}{path}" if base.endswith("/v1") else f"{base}/v1{path}"
    return UpstreamCall(
        deployment=deployment, upstream_dialect=dialect, url=url, headers=forwarded, body=body, method=method
    )
