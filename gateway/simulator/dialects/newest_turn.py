"""The newest turn of a conversation, found from its end."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..directives import DIRECTIVE_OPEN


class HistoryTurn(NamedTuple):
    """Something said: by the user, by a tool, or by the model. There are many, so it is a tuple."""

    role: Literal["user", "tool", "model"]
    texts: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewestTurn:
    """The fields of `Asked` that the history decides."""

    text: str
    prompt: str
    tool_results: tuple[str, ...]
    step: int


def newest_turn(backwards: Iterable[HistoryTurn]) -> NewestTurn:
    """Reads turns from the newest to the oldest, as few as it takes.

    User text right after tool results belongs to them (clients add reminders and pictures there), unless it holds an order.
    """
    said: list[str] = []
    results: list[str] = []
    step, found, answered, newer = 0, False, False, ""
    for turn in backwards:
        if turn.role == "user" and not found:
            said += reversed(turn.texts)
            continue
        if said and not found:
            found = turn.role != "tool" or any(DIRECTIVE_OPEN in text for text in said)
            said = said if found else []
        if turn.role != "tool":
            answered = True
        elif not answered:
            results.append("".join(turn.texts))
        if found and answered:
            break
        step += not found and turn.role == "tool" and newer != "tool"
        newer = turn.role
    said.reverse()
    return NewestTurn(
        text="\n".join(said), prompt=said[-1] if said else "", tool_results=tuple(reversed(results)), step=step
    )
