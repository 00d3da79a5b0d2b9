"""Pydantic's validation messages in the words of `penstock check`."""

import re
from decimal import Decimal
from typing import Any

from .redaction import HIDDEN, looks_like_secret

_SUBJECT = re.compile(r"^(?:Input|Value|String|List|Dictionary) should (match|have|be)\b")
# The end of "List should have at least 1 item after validation, not 0".
_COUNT = re.compile(r" after validation, not \d+$")
_QUOTED_CHARS_MAX = 60
_YAML_WORDS = {None: "null", True: "true", False: "false"}


def requirement(message: str) -> str:
    """`Input should be less than 3` -> `must be less than 3`."""
    text = _SUBJECT.sub(r"must \1", _COUNT.sub("", message))
    text = text.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
    return text if text.startswith("must") else f"is invalid: {text[0].lower()}{text[1:]}"


def quoted(value: Any) -> str:
    """A value as YAML writes it, cut to 60 characters; hidden where it looks like a secret."""
    if value is None or isinstance(value, bool):
        return _YAML_WORDS[value]
    if isinstance(value, str) and looks_like_secret(value):
        return HIDDEN
    text = str(value) if isinstance(value, Decimal) else repr(value)
    return text if len(text) <= _QUOTED_CHARS_MAX else f"{text[: _QUOTED_CHARS_MAX - 3]}..."
