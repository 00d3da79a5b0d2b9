"""OpenAI's legacy completions: https://platform.openai.com/docs/api-reference/completions"""

from collections.abc import Iterator, Mapping
from typing import Any

from ..directives import CHARS_PER_TOKEN, Asked, Order, Reply
from ..usage import Usage, size, written
from .base import Body, Dialect, Event, Told, data, pieces
from .errors import Complaint

# openai-python 2.54, types/completion_create_params.py.
_NAMES = (
    "model prompt best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty seed stop stream"
    " stream_options suffix temperature top_p user"
)


class Completions(Dialect):
    """POST /v1/completions: a choice for each prompt."""

    name = "completions"
    streams = True
    parameters = frozenset(_NAMES.split())

    def complaints(self, body: Body, headers: Mapping[str, str]) -> Iterator[Complaint]:
        """Unknown parameters, then a limit that is none."""
        yield from super().complaints(body, headers)
        if body.get("max_tokens") is not None and body["max_tokens"] < 0:
            yield Complaint(message=f"{body['max_tokens']} is less than the minimum of 0 - 'max_tokens'")

    def read(self, body: Body) -> Asked:
        """The prompts, of which those that are tokens say nothing."""
        texts = [prompt for prompt in _prompts(body) if isinstance(prompt, str)]
        return Asked(text="\n".join(texts), prompt=texts[-1] if texts else "", limit=body.get("max_tokens"))

    def usage(self, body: Body, asked: Asked, reply: Reply, order: Order) -> Usage:
        """All prompts, all choices."""
        count, _ = written(reply, order.get("output_tokens"), asked.limit)
        return Usage(given=size(body.get("prompt")) + 1, written=count * len(_prompts(body)))

    def answer_id(self, number: int) -> str:
        """Numbered, as short as can be."""
        return f"cmpl-sim{number}"

    def whole(self, told: Told) -> Body:
        """A text_completion."""
        choices = [_choice(index, told.reply.text, _finish(told)) for index in _places(told)]
        return {**self._head(told), "choices": choices, **_worded(told.usage)}

    def events(self, told: Told) -> Iterator[Event]:
        """Pieces of text, then the finish of each choice, then the usage if it was asked for."""
        head = self._head(told)
        for index in _places(told):
            for piece in pieces(told.reply.text, CHARS_PER_TOKEN):
                yield data({**head, "choices": [_choice(index, piece, None)]}), True
            yield data({**head, "choices": [_choice(index, "", _finish(told))]}), False
        if told.usage is not None and (told.body.get("stream_options") or {}).get("include_usage"):
            yield data({**head, "choices": [], **_worded(told.usage)}), False
        yield b"data: [DONE]\n\n", False

    def _head(self, told: Told) -> Body:
        head = {"id": self.answer_id(told.number), "object": "text_completion", "created": told.created}
        return {**head, "model": told.body["model"]}


def _prompts(body: Body) -> list[Any]:
    prompt = body.get("prompt") or "<|endoftext|>"
    return prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]


def _places(told: Told) -> range:
    return range(len(_prompts(told.body)))


def _finish(told: Told) -> str:
    return "stop" if told.reply.finish == "tool_calls" else told.reply.finish


def _choice(index: int, text: str, finish: str | None) -> Body:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


def _worded(usage: Usage | None) -> Body:
    if usage is None:
        return {}
    total = usage.given + usage.written
    return {"usage": {"prompt_tokens": usage.given, "completion_tokens": usage.written, "total_tokens": total}}
