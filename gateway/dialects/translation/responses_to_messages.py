"""A Responses caller before a deployment that speaks Messages: by way of chat completions, in both directions."""

from typing import Any

from . import chat_to_messages, responses_to_chat
from .translated import TranslatedRequest


def translate_request(document: dict[str, Any], *, extended: bool) -> TranslatedRequest:
    """The request as Messages. Raises NotCarriable naming the field."""
    chat = responses_to_chat.translate_request(document, extended=True)
    messages = chat_to_messages.translate_request(chat.document, extended=extended)
    dropped = (*chat.dropped_fields, *messages.dropped_fields)
    return TranslatedRequest(
        document=messages.document, caller_document=document, dropped_fields=dropped, caller_tools=chat.caller_tools
    )


def answer_translator(translated: TranslatedRequest, *, answer_id: str, created: int) -> "MessagesToResponsesAnswer":
    """The way back of one answer."""
    return MessagesToResponsesAnswer(translated, answer_id, created)


class MessagesToResponsesAnswer:
    """Messages -> chat completions -> Responses."""

    def __init__(self, translated: TranslatedRequest, answer_id: str, created: int) -> None:
        between = TranslatedRequest(
            document=translated.document,
            caller_document={**translated.caller_document, "stream_options": {"include_usage": True}},
            caller_tools={},
        )
        self._messages_to_chat = chat_to_messages.answer_translator(between, answer_id=answer_id, created=created)
        self._chat_to_responses = responses_to_chat.answer_translator(translated, answer_id=answer_id, created=created)

    def translate_document(self, document: dict[str, Any]) -> dict[str, Any]:
        """The whole answer."""
        return self._chat_to_responses.translate_document(self._messages_to_chat.translate_document(document))

    def feed(self, payload: dict[str, Any]) -> list[dict[str, Any]]:
        """The events that one event makes."""
        return [
            event for chunk in self._messages_to_chat.feed(payload) for event in self._chat_to_responses.feed(chunk)
        ]

    def end(self) -> list[dict[str, Any]]:
        """What closes the response."""
        return [
            *(event for chunk in self._messages_to_chat.end() for event in self._chat_to_responses.feed(chunk)),
            *self._chat_to_responses.end(),
        ]

    def stored_answer(self) -> tuple[str, list[dict[str, Any]]]:
        """The answer's id and items, if the caller wants them stored."""
        return self._chat_to_responses.stored_answer()
