"""Builds the response for a stopped session: a refusal or a final answer."""

from collections.abc import Mapping

from ..dialects import CONVERSATION_DIALECTS, DIALECTS
from ..dialects.final_answer import final_answer
from ..values.caller_response import CallerResponse
from ..values.plan import Refusal
from ..values.request import Request
from ..values.session import LoopThresholds
from .ports import ResponseWriter


async def stop_response(
    request: Request,
    refusal: Refusal,
    limits: LoopThresholds,
    request_id: str,
    at: float,
    headers: Mapping[str, str],
    writer: ResponseWriter,
) -> CallerResponse:
    """A refusal, or a final answer where `stop_mode` is "answer"."""
    headers = {**headers, "x-penstock-stopped": refusal.code}
    if limits.stop_mode != "answer" or request.dialect not in CONVERSATION_DIALECTS:
        answer = DIALECTS[request.dialect].refusal_response(refusal)
        return CallerResponse(status=answer.status, headers={**answer.headers, **headers}, body=answer.body)
    content_headers, body = final_answer(
        request.dialect,
        f"[Stopped by the gateway] {refusal.message}",
        id=request_id,
        model=request.model,
        created=int(at),
        stream=request.stream,
    )
    headers = {**content_headers, **headers}
    if not request.stream:
        return CallerResponse(status=200, headers=headers, body=body)
    await writer.begin(200, headers)
    await writer.write(body)
    return CallerResponse(status=200, headers=headers, already_sent=True)
