"""What is sent: the caller's own bytes where the deployment speaks its dialect, else what they were carried to. Pure."""

from collections.abc import Callable
from typing import Any

import orjson

from ..dialects import DIALECTS, steering
from ..dialects import body as bodies
from ..providers import PROVIDERS
from ..providers.upstream_call import UpstreamCall
from ..sessions import ladder
from ..values.request import HeaderHints
from .context import AttemptProgress, RequestContext
from .relay import translated_request_of


def build_call(context: RequestContext, progress: AttemptProgress, hints: HeaderHints) -> UpstreamCall:
    """The HTTP call: the caller's own bytes in the same dialect, else what they were carried to."""
    request, attempt = context.request, progress.attempt
    deployment, provider = attempt.deployment, PROVIDERS[attempt.deployment.dialect]
    translated = translated_request_of(context, progress)
    steered = _steering(context)
    if translated is not None:
        document = translated.document if steered is None else steered(translated.document, attempt.upstream_dialect)
        if attempt.output_limit is not None:
            document = provider.with_output_limit(document, attempt.upstream_dialect, deployment, attempt.output_limit)
        body: tuple[bytes | memoryview, ...] = (provider.encode_body(document, attempt.upstream_dialect, deployment),)
        return provider.build_call(attempt.upstream_dialect, body, deployment, hints.headers)
    body = DIALECTS[request.dialect].upstream_body(request, deployment.model, ask_usage=deployment.stream_usage)
    if attempt.output_limit is not None or steered is not None:
        # Only a request that is shortened or steered is written anew; every other one keeps the caller's own bytes.
        document = bodies.parse_document(b"".join(body))
        if steered is not None:
            document = steered(document, attempt.upstream_dialect)
        if attempt.output_limit is not None:
            document = provider.with_output_limit(document, attempt.upstream_dialect, deployment, attempt.output_limit)
        body = (orjson.dumps(document),)
    if request.passthrough is not None:
        return provider.build_passthrough_call(
            request.passthrough.method, request.passthrough.path, body, deployment, hints.headers
        )
    return provider.build_call(attempt.upstream_dialect, body, deployment, hints.headers)


def _steering(context: RequestContext) -> Callable[[dict[str, Any], str], dict[str, Any]] | None:
    """What is changed in the request to steer its agent: a note in it, tools withheld. None for nothing."""
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

    def steered(document: dict[str, Any], speech: str) -> dict[str, Any]:
        document = steering.append_note(document, speech, note)
        return steering.forbid_tools(document, speech) if step == "answer" else document

    return steered
