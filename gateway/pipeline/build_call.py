"""What is sent: the caller's own bytes where the deployment speaks its dialect, else what they were carried to. Pure."""

from collections.abc import Callable
from typing import Any

import orjson

from ..dialects import DIALECTS, steering
from ..dialects import body as bodies
from ..providers import PROVIDERS
from ..providers.upstream_call import UpstreamCall
from ..sessions import ladder
from ..values.request import Hints
from .context import Decided, Progress
from .relay import carried_of


def call_of(decided: Decided, progress: Progress, hints: Hints) -> UpstreamCall:
    """The HTTP call: the caller's own bytes in the same dialect, else what they were carried to."""
    request, attempt = decided.request, progress.attempt
    deployment, provider = attempt.deployment, PROVIDERS[attempt.deployment.dialect]
    carried = carried_of(decided, progress)
    steered = _steered(decided)
    if carried is not None:
        document = carried.document if steered is None else steered(carried.document, attempt.speech)
        if attempt.output_limit is not None:
            document = provider.limited(document, attempt.speech, deployment, attempt.output_limit)
        body: tuple[bytes | memoryview, ...] = (provider.finished(document, attempt.speech, deployment),)
        return provider.call(attempt.speech, body, deployment, hints.headers)
    body = DIALECTS[request.dialect].spliced(request, deployment.model, ask_usage=deployment.stream_usage)
    if attempt.output_limit is not None or steered is not None:
        # Only a request that is shortened or steered is written anew; every other one keeps the caller's own bytes.
        document = bodies.whole(b"".join(body))
        if steered is not None:
            document = steered(document, attempt.speech)
        if attempt.output_limit is not None:
            document = provider.limited(document, attempt.speech, deployment, attempt.output_limit)
        body = (orjson.dumps(document),)
    if request.passage is not None:
        return provider.passage(request.passage.method, request.passage.path, body, deployment, hints.headers)
    return provider.call(attempt.speech, body, deployment, hints.headers)


def _steered(decided: Decided) -> Callable[[dict[str, Any], str], dict[str, Any]] | None:
    """What is changed in the request to steer its agent: a note in it, tools withheld. None for nothing."""
    standing, note = decided.standing, decided.note
    step = standing.step if standing.acts else ""
    if step == "nudge":
        note = f"{note}\n\n{ladder.nudge(standing.culprit)}" if note else ladder.nudge(standing.culprit)
    elif step == "answer":
        note = f"{note}\n\n{ladder.CONCLUDE}" if note else ladder.CONCLUDE
    if not note:
        return None

    def steered(document: dict[str, Any], speech: str) -> dict[str, Any]:
        document = steering.noted(document, speech, note)
        return steering.toolless(document, speech) if step == "answer" else document

    return steered
