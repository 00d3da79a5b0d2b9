"""How a run that was stopped is told so: a refusal in its dialect, or a last answer in the model's place."""

from collections.abc import Mapping

from ..dialects import CONVERSATIONS, DIALECTS
from ..dialects import final_answer as words
from ..values.caller_response import Answer
from ..values.plan import Refusal
from ..values.request import Request
from ..values.session import LoopLimits
from .ports import Reply


async def last_words(
    request: Request,
    refusal: Refusal,
    limits: LoopLimits,
    request_id: str,
    at: float,
    headers: Mapping[str, str],
    reply: Reply,
) -> Answer:
    """A refusal, or a last answer in the model's place."""
    headers = {**headers, "x-penstock-stopped": refusal.code}
    if limits.stop_mode != "answer" or request.dialect not in CONVERSATIONS:
        answer = DIALECTS[request.dialect].refused(refusal)
        return Answer(status=answer.status, headers={**answer.headers, **headers}, body=answer.body)
    kind, body = words.spoken(
        request.dialect,
        f"[Stopped by the gateway] {refusal.message}",
        id=request_id,
        model=request.model,
        created=int(at),
        stream=request.stream,
    )
    headers = {**kind, **headers}
    if not request.stream:
        return Answer(status=200, headers=headers, body=body)
    await reply.begin(200, headers)
    await reply.write(body)
    return Answer(status=200, headers=headers, streamed=True)
