"""Build call: the HTTP call of one attempt. Pure.

The body is the caller's own bytes in the same dialect, else the translated request.
"""

from collections.abc import Callable
from typing import Any

import orjson
from msgspec import structs

from ..dialects import DIALECTS, steering
from ..dialects import body as bodies
from ..dialects.translation import known_limits
from ..dialects.translation.translated import UNSIGNED_REASONING, TranslatedRequest
from ..providers import PROVIDERS
from ..providers.upstream_call import UpstreamCall
from ..sessions import ladder
from ..values.catalog import Deployment
from ..values.request import HeaderHints
from .context import AttemptProgress, RequestContext, translated_request_of


def build_call(context: RequestContext, progress: AttemptProgress, hints: HeaderHints) -> UpstreamCall:
    """The HTTP call of one attempt, with its output limit and loop guard edits."""
    request, attempt = context.request, progress.attempt
    deployment, provider = attempt.deployment, PROVIDERS[attempt.deployment.dialect]
    translated = translated_request_of(context, progress)
    steer = _steering(context)
    if translated is not None:
        document = translated.document if steer is None else steer(translated.document, attempt.upstream_dialect)
        if attempt.output_limit is not None:
            document = provider.with_output_limit(document, attempt.upstream_dialect, deployment, attempt.output_limit)
        if not progress.asks_usage and "stream_options" in document:
            document = {name: value for name, value in document.items() if name != "stream_options"}
        document, dropped = _adapted(translated, document, attempt.upstream_dialect, deployment)
        encoded = (orjson.dumps(document),)
        call = provider.build_call(attempt.upstream_dialect, encoded, deployment, hints.headers)
        return structs.replace(call, dropped_fields=dropped) if dropped else call
    body = DIALECTS[request.dialect].upstream_body(request, deployment.model, ask_usage=progress.asks_usage)
    if attempt.stripped_fields:
        body = (bodies.without_members(b"".join(body), attempt.stripped_fields),)
    if attempt.output_limit is not None or steer is not None:
        # Only a request that changes is serialized again; every other one keeps the caller's own bytes.
        document = bodies.parse_document(b"".join(body))
        if steer is not None:
            document = steer(document, attempt.upstream_dialect)
        if attempt.output_limit is not None:
            document = provider.with_output_limit(document, attempt.upstream_dialect, deployment, attempt.output_limit)
        body = (orjson.dumps(document),)
    if request.passthrough is not None:
        return provider.build_passthrough_call(
            request.passthrough.method, request.passthrough.path, body, deployment, hints.headers
        )
    return provider.build_call(attempt.upstream_dialect, body, deployment, hints.headers)


def _adapted(
    translated: TranslatedRequest, document: dict[str, Any], dialect: str, deployment: Deployment
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The translated request as the deployment accepts it, and the names of what it is not sent."""
    not_sent: tuple[str, ...] = ()
    if known_limits.requires_reasoning(dialect, deployment):
        document = known_limits.with_reasoning(document, translated.reasoning)
    elif translated.reasoning:
        not_sent = (UNSIGNED_REASONING,)
    document, dropped = PROVIDERS[deployment.dialect].adapted_body(document, dialect, deployment)
    document, refused = known_limits.adapted(document, dialect, deployment)
    return document, (*not_sent, *dropped, *refused)


def _steering(context: RequestContext) -> Callable[[dict[str, Any], str], dict[str, Any]] | None:
    """The edit of the request by loop guard or operator, None for no edit.

    A note is appended; at the `answer` step tools are withheld, too.
    """
    loop_state, note = context.loop_state, context.operator_note
    step = loop_state.step if loop_state.is_enforced else ""
    if step == "nudge":
        note = (
            f"{note}\n\n{ladder.nudge_text(loop_state.repeating)}" if note else ladder.nudge_text(loop_state.repeating)
        )
    elif step == "answer":
        note = f"{note}\n\n{ladder.FINAL_ANSWER_NOTE}" if note else ladder.FINAL_ANSWER_NOTE
    if not note:
        return None

    def steer(document: dict[str, Any], dialect: str) -> dict[str, Any]:
        document = steering.append_note(document, dialect, note)
        return steering.forbid_tools(document, dialect) if step == "answer" else document

    return steer
