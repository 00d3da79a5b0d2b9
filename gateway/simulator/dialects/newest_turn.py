"""Finds the newest turn of a conversation, from its end."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..directives import DIRECTIVE_OPEN


class HistoryTurn(NamedTuple):
    """A message of the user, a tool or the model. Frequent, so it is a tuple."""

    role: Literal["user", "tool", "model"]
    texts: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewestTurn:
    """The fields of `SimulatedRequest` that depend on the history."""

    text: str
    prompt: str
    tool_results: tuple[str, ...]
    step: int


def newest_turn(turns_newest_first: Iterable[HistoryTurn]) -> NewestTurn:
    """Reads turns from the newest to the oldest, as few as necessary.

    User text right after tool results belongs to them (clients add reminders and images there), unless it has a
    directive.
    """
    texts: list[str] = []
    results: list[str] = []
    step, is_complete, answered, newer_role = 0, False, False, ""
    for turn in turns_newest_first:
        if turn.role == "user" and not is_complete:
            texts += reversed(turn.texts)
            continue
        if texts and not is_complete:
            is_complete = turn.role != "tool" or any(DIRECTIVE_OPEN in text for text in texts)
            texts = texts if is_complete else []
        if turn.role != "tool":
            answered = True
        elif not answered:
            results.append("".join(turn.texts))
        if is_complete and answered:
            break
        step += not is_complete and turn.role == "tool" and newer_role != "tool"
        newer_role = turn.role
    texts.reverse()
    return NewestTurn(
        text="\n".join(texts), prompt=texts[-1] if texts else "", tool_results=tuple(reversed(results)), step=step
    )
