"""How a run that was stopped is told so: a refusal in its dialect, or a last answer in the model's place."""

from collections.abc import Mapping

from ..dialects import CONVERSATION_DIALECTS, DIALECTS
from ..dialects import final_answer as words
from ..values.caller_response import CallerResponse
from ..values.plan import Refusal
from ..values.request import Request
from ..values.session import LoopThresholds
from .ports import ResponseWriter


async def stopped_answer(
    request: Request,
    refusal: Refusal,
    limits: LoopThresholds,
    request_id: str,
    at: float,
    headers: Mapping[str, str],
    reply: ResponseWriter,
) -> CallerResponse:
    """A refusal, or a last answer in the model's place."""
    headers = {**headers, "x-penstock-stopped": refusal.code}
    if limits.stop_mode != "answer" or request.dialect not in CONVERSATION_DIALECTS:
        answer = DIALECTS[request.dialect].refusal_answer(refusal)
        return CallerResponse(status=answer.status, headers={**answer.headers, **headers}, body=answer.body)
    kind, body = words.final_answer(
        request.dialect,
        f"[Stopped by the gateway] {refusal.message}",
        id=request_id,
        model=request.model,
        created=int(at),
        stream=request.stream,
    )
    headers = {**kind, **headers}
    if not request.stream:
        return CallerResponse(status=200, headers=headers, body=body)
    await reply.begin(200, headers)
    await reply.write(body)
    return CallerResponse(status=200, headers=headers, already_sent=True)
