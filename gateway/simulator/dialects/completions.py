"""OpenAI's legacy completions.

https://platform.openai.com/docs/api-reference/completions
"""

from collections.abc import Iterator, Mapping
from typing import Any

from ..directives import CHARS_PER_TOKEN, Directive, SimulatedReply, SimulatedRequest
from ..usage import SimulatedUsage, json_tokens, output_token_counts
from .base import AnswerContent, Body, PacedEvent, SimulatedDialect, sse_data, text_chunks
from .errors import ApiError

# openai-python 2.54, types/completion_create_params.py.
_PARAMETER_NAMES = (
    "model prompt best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty seed stop stream"
    " stream_options suffix temperature top_p user"
)


class Completions(SimulatedDialect):
    """POST /v1/completions: a choice for each prompt."""

    name = "completions"
    supports_streaming = True
    known_parameters = frozenset(_PARAMETER_NAMES.split())

    def validation_errors(self, body: Body, headers: Mapping[str, str]) -> Iterator[ApiError]:
        """Unknown parameters, then an invalid limit."""
        yield from super().validation_errors(body, headers)
        if body.get("max_tokens") is not None and body["max_tokens"] < 0:
            yield ApiError(message=f"{body['max_tokens']} is less than the minimum of 0 - 'max_tokens'")

    def parse_request(self, body: Body) -> SimulatedRequest:
        """The prompts; those given as tokens are ignored."""
        texts = [prompt for prompt in _prompts(body) if isinstance(prompt, str)]
        return SimulatedRequest(
            text="\n".join(texts), prompt=texts[-1] if texts else "", max_output_tokens=body.get("max_tokens")
        )

    def usage(
        self, body: Body, request: SimulatedRequest, reply: SimulatedReply, directive: Directive
    ) -> SimulatedUsage:
        """All prompts, all choices."""
        count, _ = output_token_counts(reply, directive.get("output_tokens"), request.max_output_tokens)
        return SimulatedUsage(
            input_tokens=json_tokens(body.get("prompt")) + 1, output_tokens=count * len(_prompts(body))
        )

    def response_id(self, number: int) -> str:
        """Numbered and short."""
        return f"cmpl-sim{number}"

    def document(self, answer: AnswerContent) -> Body:
        """A text_completion."""
        choices = [_choice(index, answer.reply.text, _finish_reason(answer)) for index in _choice_indexes(answer)]
        return {**self._common_fields(answer), "choices": choices, **_usage_body(answer.usage)}

    def events(self, answer: AnswerContent) -> Iterator[PacedEvent]:
        """Chunks of text, then the finish of each choice, then the usage if requested."""
        head = self._common_fields(answer)
        for index in _choice_indexes(answer):
            for chunk in text_chunks(answer.reply.text, CHARS_PER_TOKEN):
                yield sse_data({**head, "choices": [_choice(index, chunk, None)]}), True
            yield sse_data({**head, "choices": [_choice(index, "", _finish_reason(answer))]}), False
        if answer.usage is not None and (answer.body.get("stream_options") or {}).get("include_usage"):
            yield sse_data({**head, "choices": [], **_usage_body(answer.usage)}), False
        yield b"data: [DONE]\n\n", False

    def _common_fields(self, answer: AnswerContent) -> Body:
        head = {
            "id": self.response_id(answer.sequence_number),
            "object": "text_completion",
            "created": answer.created_at,
        }
        return {**head, "model": answer.body["model"]}


def _prompts(body: Body) -> list[Any]:
    prompt = body.get("prompt") or "<|endoftext|>"
    return prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]


def _choice_indexes(answer: AnswerContent) -> range:
    return range(len(_prompts(answer.body)))


def _finish_reason(answer: AnswerContent) -> str:
    return "stop" if answer.reply.finish_reason == "tool_calls" else answer.reply.finish_reason


def _choice(index: int, text: str, finish: str | None) -> Body:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


def _usage_body(usage: SimulatedUsage | None) -> Body:
    if usage is None:
        return {}
    total = usage.input_tokens + usage.output_tokens
    return {
        "usage": {"prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens, "total_tokens": total}
    }
