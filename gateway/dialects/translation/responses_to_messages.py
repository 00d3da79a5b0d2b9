"""A Responses caller before a deployment that speaks Messages: by way of chat completions, in both directions."""

from typing import Any

from . import chat_to_messages, responses_to_chat
from .translated import Carried


def carry(document: dict[str, Any], *, extended: bool) -> Carried:
    """The request as Messages. Raises NotCarriable naming the field."""
    chat = responses_to_chat.carry(document, extended=True)
    messages = chat_to_messages.carry(chat.document, extended=extended)
    dropped = (*chat.dropped, *messages.dropped)
    return Carried(document=messages.document, asked=document, dropped=dropped, tools=chat.tools)


def back(carried: Carried, *, answer_id: str, created: int) -> "Back":
    """The way back of one answer."""
    return Back(carried, answer_id, created)


class Back:
    """Messages -> chat completions -> Responses."""

    def __init__(self, carried: Carried, answer_id: str, created: int) -> None:
        between = Carried(
            document=carried.document, asked={**carried.asked, "stream_options": {"include_usage": True}}, tools={}
        )
        self._first = chat_to_messages.back(between, answer_id=answer_id, created=created)
        self._second = responses_to_chat.back(carried, answer_id=answer_id, created=created)

    def whole(self, document: dict[str, Any]) -> dict[str, Any]:
        """The whole answer."""
        return self._second.whole(self._first.whole(document))

    def feed(self, payload: dict[str, Any]) -> list[dict[str, Any]]:
        """The events that one event makes."""
        return [event for chunk in self._first.feed(payload) for event in self._second.feed(chunk)]

    def end(self) -> list[dict[str, Any]]:
        """What closes the response."""
        return [*(event for chunk in self._first.end() for event in self._second.feed(chunk)), *self._second.end()]

    def kept(self) -> tuple[str, list[dict[str, Any]]]:
        """The answer's id and items, if the caller wants them stored."""
        return self._second.kept()
