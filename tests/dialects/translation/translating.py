"""Translates the minimal request of a dialect, with fields added, for tests."""

import json
from typing import Any

from gateway.dialects import PARSERS
from gateway.dialects.translation import Translator
from gateway.dialects.translation.translated import AnswerTranslator, TranslatedRequest
from gateway.values.errors import NotTranslatable

USER = [{"role": "user", "content": "hi"}]


FUNCTION = {"name": "f", "parameters": {"type": "object"}}


MINIMAL_BODIES: dict[str, dict[str, Any]] = {
    "chat": {"messages": USER},
    "messages": {"messages": USER, "max_tokens": 9},
    "responses": {"input": "hi"},
}


def translator(dialect: str, **fields: Any) -> Translator:
    """The translator of a request in this dialect."""
    return Translator(PARSERS[dialect](json.dumps({"model": "m", **MINIMAL_BODIES[dialect], **fields}).encode()))


def translate(dialect: str, to: str, *, extended: bool = False, **fields: Any) -> TranslatedRequest:
    """The request in another dialect; raises NotTranslatable."""
    translated = translator(dialect, **fields).translate(to, extended=extended)
    if isinstance(translated, NotTranslatable):
        raise translated
    return translated


def answer_translator(dialect: str, to: str, *, extended: bool = False, **fields: Any) -> AnswerTranslator:
    """The translator of the answer to such a request."""
    translated = translate(dialect, to, extended=extended, **fields)
    return translator(dialect, **fields).answer_translator(translated, to, answer_id="a", created=1)
