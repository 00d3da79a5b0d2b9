"""Types shared by the translations: the translated request, and the protocols."""

from collections.abc import Mapping
from typing import Any, Protocol

from ...values.base import Value
from .answer_account import AnswerLoss

# Reasoning of earlier turns without a provider's signature, as it is named where a model does not require it back.
UNSIGNED_REASONING = "reasoning of earlier turns (unsigned)"


class CallerTool(Value, frozen=True, kw_only=True):
    """A tool as the caller offers it.

    kind: function, or custom (one of free text)
    namespace: of Responses, "" without one
    """

    name: str
    kind: str = "function"
    namespace: str = ""


class TranslatedRequest(Value, frozen=True, kw_only=True):
    """A request in another dialect, and what translating its answer needs.

    document: the translated body, without `model`
    caller_document: the caller's own body
    dropped_fields: names of what was dropped because no answer depends on it (hints, labels, cache marks); reported to
        the caller in x-penstock-dropped
    caller_tools: the caller's tools by their upstream name, where that may differ
    reasoning: unsigned reasoning of assistant messages, by their place in `document`, for models that require it back
    """

    document: dict[str, Any]
    caller_document: dict[str, Any]
    dropped_fields: tuple[str, ...] = ()
    caller_tools: Mapping[str, CallerTool] = {}
    reasoning: Mapping[int, str] = {}

    def caller_tool(self, name: str) -> CallerTool:
        """Return the caller's tool of this upstream name."""
        return self.caller_tools.get(name) or CallerTool(name=name)


class AnswerTranslator(Protocol):
    """Translates one answer: whole, or event by event.

    `end` closes what is open. `stored_answer` returns the answer's id and items where the caller may refer to it later
    and only the gateway can store it, else ("", []). `losses` returns what did not reach the caller, once the answer has
    ended; `drop` adds what could not even be read.
    """

    def translate_document(self, document: dict[str, Any]) -> dict[str, Any]: ...
    def feed(self, payload: dict[str, Any]) -> list[dict[str, Any]]: ...
    def end(self) -> list[dict[str, Any]]: ...
    def stored_answer(self) -> tuple[str, list[dict[str, Any]]]: ...
    def drop(self, kind: str, name: str) -> None: ...
    def losses(self) -> tuple[AnswerLoss, ...]: ...


class Translation(Protocol):
    """One pair of dialects; implemented by modules.

    `extended` targets accept litellm's additions to chat completions (cache_control on parts, thinking_blocks on
    messages).
    """

    def translate_request(self, document: dict[str, Any], *, extended: bool) -> TranslatedRequest: ...
    def answer_translator(self, translated: TranslatedRequest, *, answer_id: str, created: int) -> AnswerTranslator: ...
