"""Translates between Responses and Messages by way of chat completions, in both directions."""

from typing import Any

from . import chat_to_messages, responses_to_chat
from .answer_account import AnswerLoss
from .translated import UNSIGNED_REASONING, TranslatedRequest


def translate_request(document: dict[str, Any], *, extended: bool) -> TranslatedRequest:
    """Translate the request to Messages. Raises NotTranslatable naming the field."""
    chat = responses_to_chat.translate_request(document, extended=True)
    messages = chat_to_messages.translate_request(chat.document, extended=extended)
    reasoning = (UNSIGNED_REASONING,) if chat.reasoning else ()
    dropped = (*chat.dropped_fields, *reasoning, *messages.dropped_fields)
    return TranslatedRequest(
        document=messages.document,
        caller_document=document,
        dropped_fields=dropped,
        caller_tools=chat.caller_tools,
    )


def answer_translator(translated: TranslatedRequest, *, answer_id: str, created: int) -> "MessagesToResponsesAnswer":
    """Create the translator of one answer."""
    return MessagesToResponsesAnswer(translated, answer_id, created)


class MessagesToResponsesAnswer:
    """Translates a Messages answer to chat completions and on to Responses."""

    def __init__(self, translated: TranslatedRequest, answer_id: str, created: int) -> None:
        chat_request = TranslatedRequest(
            document=translated.document,
            caller_document={**translated.caller_document, "stream_options": {"include_usage": True}},
            caller_tools={},
        )
        self._messages_to_chat = chat_to_messages.answer_translator(chat_request, answer_id=answer_id, created=created)
        self._chat_to_responses = responses_to_chat.answer_translator(translated, answer_id=answer_id, created=created)

    def translate_document(self, document: dict[str, Any]) -> dict[str, Any]:
        """Translate an unstreamed answer."""
        return self._chat_to_responses.translate_document(self._messages_to_chat.translate_document(document))

    def feed(self, payload: dict[str, Any]) -> list[dict[str, Any]]:
        """Translate one event to events."""
        return [
            event for chunk in self._messages_to_chat.feed(payload) for event in self._chat_to_responses.feed(chunk)
        ]

    def end(self) -> list[dict[str, Any]]:
        """Return the events that close the response."""
        return [
            *(event for chunk in self._messages_to_chat.end() for event in self._chat_to_responses.feed(chunk)),
            *self._chat_to_responses.end(),
        ]

    def stored_answer(self) -> tuple[str, list[dict[str, Any]]]:
        """Return the answer's id and items, ("", []) unless the caller wants it stored."""
        return self._chat_to_responses.stored_answer()

    def losses(self) -> tuple[AnswerLoss, ...]:
        """Return what either step lost; final after `end`."""
        return tuple(dict.fromkeys((*self._messages_to_chat.losses(), *self._chat_to_responses.losses())))

    def drop(self, kind: str, name: str) -> None:
        """Name what could not be read."""
        self._messages_to_chat.drop(kind, name)
