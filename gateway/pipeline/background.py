"""Background responses: which objects an answer stores, and what the end of a response corrects. Pure.

A background response is charged as held when it is started, because it may cost anything up to that. Its provider
reports the usage later, to whoever asks for it: that is booked by a further entry, as the difference.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..accounting.budget_lines import lines_for
from ..dialects import stored_objects
from ..dialects.stored_objects import ResponseEnd
from ..providers import PROVIDERS
from ..sessions import caps
from ..sessions.session_index import Session
from ..values.budget import REQUEST_DIMENSIONS, BudgetLine
from ..values.catalog import Deployment
from ..values.ledger_entry import LedgerEntry, correction_entry
from ..values.request import PassThrough
from ..values.snapshot import Snapshot
from ..values.usage import NO_USAGE
from . import settle
from .context import AttemptProgress, RequestContext


def stored_ids(context: RequestContext, progress: AttemptProgress) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(ids of objects that the provider stores of an answer, ids of its items).

    Of a background response its own id is enough: it is stored from its beginning.
    """
    request = context.request
    if request.passthrough is not None:
        return _ids_of_object(context, progress, request.passthrough)
    if not request.is_stored or progress.response_translator is not None:
        return (), ()
    meter, document = progress.stream_meter, _answer_document(progress)
    answer_id = progress.answer_id or (meter.id if meter is not None else "")
    if not answer_id or (progress.outcome != "completed" and not request.is_background):
        return (), ()
    made, items = stored_objects.ids_in_response(document) if document is not None else ((), ())
    return tuple(dict.fromkeys((answer_id, *made))), items


def _ids_of_object(
    context: RequestContext, progress: AttemptProgress, passthrough: PassThrough
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The same of a pass-through answer: what it creates, and what a known object has made meanwhile."""
    document = _answer_document(progress)
    is_known = context.object_origin is not None and passthrough.method == "GET"
    if progress.outcome != "completed" or document is None or not (passthrough.creates_object or is_known):
        return (), ()
    made, items = stored_objects.ids_in_response(document) if passthrough.response_id else ((), ())
    return tuple(dict.fromkeys((*stored_objects.ids_in_object(document), *made))), items


def reported_end(context: RequestContext, progress: AttemptProgress) -> ResponseEnd | None:
    """The end of the caller's stored response that an answer reports; None for any other answer."""
    passthrough = context.request.passthrough
    if passthrough is None or context.object_origin is None or not passthrough.response_id:
        return None
    document = _answer_document(progress)
    end = stored_objects.response_end(document) if document is not None else None
    return end if end is not None and end.id == passthrough.response_id else None


def correction(snapshot: Snapshot, entry: LedgerEntry, end: ResponseEnd) -> LedgerEntry | None:
    """The entry that corrects an estimated one by the end of its response; None where that reports no usage.

    A failed response without usage costs nothing; a cancelled one may have cost something, and stays charged.
    """
    deployment = _deployment_of(snapshot, entry)
    if deployment is None:
        return None
    usage = PROVIDERS[deployment.dialect].usage_of(end.document)
    if usage is None or not usage.exact:
        if end.status != "failed":
            return None
        usage = NO_USAGE
    route = snapshot.find_route(entry.route)
    reference = route.reference if route is not None else deployment
    reason = f"usage of the {end.status} response"
    ended_at = end.document.get("completed_at")
    at = ended_at if isinstance(ended_at, int | float) else (entry.at_ms + entry.duration_ms) / 1000
    amounts = settle.amounts_of_usage(deployment, reference, usage, at=at)
    return correction_entry(entry, amounts, reason=reason, priced=deployment.price_sheet is not None)


def budget_changes(snapshot: Snapshot, session: Session, correction: LedgerEntry) -> Sequence[tuple[BudgetLine, int]]:
    """(line, change of what it was charged) for each budget and cap that the corrected entry was charged to."""
    at = (correction.window_ms or correction.at_ms) / 1000
    scope = {
        name: getattr(correction, name) for name in (*REQUEST_DIMENSIONS, "deployment", "model", "tier", "provider")
    }
    scope["session"] = correction.root
    lines = [
        *lines_for(snapshot.budgets_for_key(correction.key), scope, now=at),
        *caps.lines_at(snapshot.caps_for_key(correction.key), session, correction.key, now=at),
    ]
    amounts = settle.amounts_of(correction)
    return [(line, change) for line in lines if (change := amounts[line.measure] or 0)]


def _deployment_of(snapshot: Snapshot, entry: LedgerEntry) -> Deployment | None:
    """The deployment of an entry, else another one of its provider with its model."""
    named = snapshot.deployments.get(entry.deployment)
    for deployment in (*([named] if named is not None else []), *snapshot.deployments.values()):
        if (deployment.provider, deployment.model) == (entry.provider, entry.model):
            return deployment
    return None


def _answer_document(progress: AttemptProgress) -> Mapping[str, Any] | None:
    meter = progress.stream_meter
    # The last event of a response's stream repeats it as a whole.
    return meter.answer or None if meter is not None else progress.answer_document
