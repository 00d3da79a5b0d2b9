"""Counts what came in and what went out while an answer is translated, and names what was lost between."""

from collections.abc import Iterator
from typing import Any, NamedTuple

# Kinds of what an answer may lose, the values of a metric's label.
LOSS_KINDS = ("text", "reasoning", "call", "citation", "media", "server_tool", "other")
# Losses of one answer that are named; further ones are only counted under a name that is there already.
_LOSSES_MAX, _NAME_CHARS_MAX = 16, 64


class AnswerLoss(NamedTuple):
    """What of an answer did not reach the caller.

    kind: one of LOSS_KINDS
    name: as the provider's dialect names it
    """

    kind: str
    name: str


class AnswerAccount:
    """The account of one answer: what came in equals what went out and what was named.

    text_in, text_out: characters of text, reasoning and arguments
    calls_in, calls_out: calls of the caller's tools
    is_closed: the answer has ended; before, a part of it may still wait
    """

    __slots__ = ("_losses", "_text_named", "calls_in", "calls_out", "is_closed", "text_in", "text_out")

    def __init__(self) -> None:
        self.text_in = self.text_out = self.calls_in = self.calls_out = self._text_named = 0
        self.is_closed = False
        self._losses: dict[AnswerLoss, None] = {}

    def drop(self, kind: str, name: str, text: str = "") -> None:
        """Name what has no counterpart; `text` is the part of it that was counted in."""
        self._text_named += len(text)
        printable = "".join(letter for letter in name if letter.isascii() and letter.isprintable() and letter != ";")
        loss = AnswerLoss(kind, printable[:_NAME_CHARS_MAX])
        if loss not in self._losses and len(self._losses) < _LOSSES_MAX:
            self._losses[loss] = None

    def losses(self) -> tuple[AnswerLoss, ...]:
        """Return what was named, and the differences that were not."""
        return (*self._losses, *(self._differences() if self.is_closed else ()))

    def _differences(self) -> Iterator[AnswerLoss]:
        missing_text = self.text_in - self.text_out - self._text_named
        if missing_text:
            yield AnswerLoss("text", f"{missing_text} characters of text")
        if missing_calls := self.calls_in - self.calls_out:
            yield AnswerLoss("call", f"{missing_calls} tool calls")


class AccountedAnswer:
    """What all translators of answers have in common: the account, and no stored answer."""

    def __init__(self) -> None:
        self._account = AnswerAccount()

    def drop(self, kind: str, name: str) -> None:
        """Name what could not be read."""
        self._account.drop(kind, name)

    def losses(self) -> tuple[AnswerLoss, ...]:
        """Return what did not reach the caller; final once the answer ended."""
        return self._account.losses()

    def stored_answer(self) -> tuple[str, list[dict[str, Any]]]:
        """Return nothing: callers cannot refer to such answers."""
        return "", []
