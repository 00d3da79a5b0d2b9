"""The Responses stream: what is read of it. Usage stands in the event that ends it."""

from typing import Any

from .answer_fingerprint import beginning, calls
from .partial_response import ResponseSoFar
from .sse import Meter, weight_of, written

_ENDS = ("response.completed", "response.incomplete", "response.failed")


class ResponsesStream(Meter):
    """Meters one stream; nothing of it is withheld."""

    __slots__ = ("_so_far",)

    def __init__(self) -> None:
        super().__init__()
        self._so_far = ResponseSoFar()

    def _matters(self, data: bytes) -> bool:
        """The first and the last events of a response, and errors."""
        return (
            b'"response.c' in data
            or b'"response.failed"' in data
            or b'"response.incomplete"' in data
            or b'"error"' in data
            or b"[DONE]" in data
        )

    def _read(self, payload: dict[str, Any], event_bytes: int) -> bool:
        kind = str(payload.get("type"))
        if kind.endswith(".delta"):
            self._weigh(weight_of(payload.get("delta")), event_bytes)
            return True
        response = payload.get("response")
        if isinstance(response, dict):
            self.id = str(response.get("id") or self.id)
        if kind in _ENDS and isinstance(response, dict):
            usage = response.get("usage")
            # Its end says all of it again.
            self.heard_text, self.heard_id, self.heard_call = beginning(response)
            self.calls = calls(response)
            self.usage = usage if isinstance(usage, dict) else None
            self.done = self.finished = True
            if kind == "response.failed":
                self.error = response.get("error") or response
        elif kind == "error" or payload.get("error"):
            self.error = payload.get("error") or payload
        return True

    def _watch(self, payload: dict[str, Any]) -> None:
        self._so_far.read(payload)

    def _closing(self, input_tokens: int, output_tokens: int) -> bytes:
        """What closes the response, b"" if there is none yet."""
        usage = {
            "input_tokens": input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": input_tokens + output_tokens,
        }
        return b"".join(written(event, named=True) for event in self._so_far.closing(usage))
