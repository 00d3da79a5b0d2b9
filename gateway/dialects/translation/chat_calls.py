"""Distinguishes the tool calls of a chat answer, where ids, indexes and names come late, repeat or are missing."""

import re
from typing import Any

from ...values.base import Value
from .. import lenient_json

# Structure of JSON: strings are skipped, with what is escaped in them.
_STRUCTURE = re.compile(r'\\.?|["{}\[\]]', re.DOTALL)
# Arguments that some providers send before the real ones, or for none.
_NO_ARGUMENTS = ("{}", "null", '""')
# Ids that say nothing; Mistral's clients have the text as their default.
_NO_IDS = (None, "", "null")


class ChatCall:
    """One call of an answer.

    number: its place in the answer, from 0
    id: the provider's id, "" for none
    name: the tool's name, "" until known
    pieces: its arguments so far
    is_begun: it was passed on; whatever comes later belongs to this name and id
    is_closed: nothing more is passed on
    """

    __slots__ = (
        "_depth", "_in_string", "_is_whole", "_scanned", "_skips_character", "has_empty_arguments", "id", "is_begun", "is_closed", "joiner",
        "name", "number", "pieces",
    )  # fmt: skip

    def __init__(self, number: int) -> None:
        self.number = number
        self.id = self.name = ""
        self.pieces: list[str] = []
        self.joiner = lenient_json.TextJoiner()
        self.is_begun = self.is_closed = self.has_empty_arguments = False
        # Nesting of the arguments up to the pieces that were scanned.
        self._scanned = self._depth = 0
        self._in_string = self._skips_character = self._is_whole = False

    @property
    def is_complete(self) -> bool:
        """Whether the arguments are a whole JSON object, after which no more can follow."""
        for piece in self.pieces[self._scanned :]:
            self._scan(piece)
        self._scanned = len(self.pieces)
        return self.has_empty_arguments or self._is_whole

    def accepts(self, text: str) -> bool:
        """Add arguments; False where they are complete, or only say that there are none."""
        if not text:
            return False
        if not self.pieces:
            stripped = text.strip()
            if stripped in _NO_ARGUMENTS:
                self.has_empty_arguments = True
                return False
            if not stripped:
                return False
        if self.is_closed or (self.pieces and self.is_complete):
            return False
        self.has_empty_arguments = False
        self.pieces.append(text)
        return True

    def _scan(self, piece: str) -> None:
        start = 1 if self._skips_character and piece else 0
        self._skips_character = self._skips_character and not piece
        for mark in _STRUCTURE.finditer(piece, start):
            token = mark.group()
            if token[0] == "\\":
                self._skips_character = len(token) == 1
            elif token == '"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._depth += 1 if token in "{[" else -1
                self._is_whole = self._depth <= 0


class ChatCalls:
    """The calls of one answer, in the order in which they began.

    `answer_id` makes ids for calls that have none of their own.
    """

    def __init__(self, answer_id: str) -> None:
        self.calls: list[ChatCall] = []
        # Those of this choice; `calls` has them of all choices.
        self._own: list[ChatCall] = []
        self._answer_id = answer_id
        self._ids: set[str] = set()
        self._by_id: dict[str, ChatCall] = {}
        self._by_index: dict[int, ChatCall] = {}

    def sibling(self) -> "ChatCalls":
        """Return the calls of another choice of the answer, whose indexes are its own."""
        other = ChatCalls(self._answer_id)
        other.calls, other._ids = self.calls, self._ids
        return other

    @property
    def is_empty(self) -> bool:
        """Whether this choice has no calls."""
        return not self._own

    def add(self, entry: dict[str, Any]) -> ChatCall:
        """Return the call of an entry of a whole answer."""
        hints = _hints_of(entry)
        call = self._new_call()
        call.id, call.name = hints.id, hints.name
        return call

    def find(self, entry: dict[str, Any], position: int, entries: int) -> ChatCall | None:
        """Return the call that an entry of a chunk belongs to, a new one where it begins another.

        `position` is the entry's place among the `entries` of its chunk. An index alone does not tell calls apart: some
        providers send none, or 0 for all. None for an entry that says nothing.
        """
        hints = _hints_of(entry)
        if not (hints.id or hints.name or hints.has_arguments):
            return None
        if hints.index is not None:
            current = self._by_index.get(hints.index)
        elif entries > 1:
            current = self._own[position] if position < len(self._own) else None
        else:
            current = self._own[-1] if self._own else None
        call = self._continued_call(hints, current) or self._new_call()
        if hints.index is not None:
            self._by_index[hints.index] = call
        if hints.id:
            self._by_id[hints.id] = call
        call.id, call.name = call.id or hints.id, call.name or hints.name
        return call

    def begin(self, call: ChatCall) -> None:
        """Mark a call as passed on, under an id that no other call has."""
        if not call.id or call.id in self._ids:
            call.id = f"call_{self._answer_id}_{call.number}"
        self._ids.add(call.id)
        call.is_begun = True

    def _new_call(self) -> ChatCall:
        call = ChatCall(len(self.calls))
        self.calls.append(call)
        self._own.append(call)
        return call

    def _continued_call(self, hints: "_Hints", current: ChatCall | None) -> ChatCall | None:
        """The call that an entry continues, None if it begins another; `current` is the one at its index or place."""
        same_id = self._by_id.get(hints.id) if hints.id else None
        if same_id is not None and (not hints.name or same_id is current or hints.index is None):
            return same_id if not hints.name or hints.name == same_id.name or not same_id.name else None
        if current is None:
            return None
        if hints.name and current.name:
            # A name begins a call, unless the provider repeats it in each delta.
            is_repeated = hints.name == current.name and not current.is_complete
            return current if is_repeated and (not hints.id or not current.id) else None
        if hints.id and current.id:
            # Servers that give each delta an id of its own continue the arguments without a name (vLLM before 0.8).
            return current if hints.has_arguments and not hints.name and not current.is_complete else None
        return None if hints.id and current.is_complete else current


class _Hints(Value, frozen=True, kw_only=True):
    """What an entry of `tool_calls` says about the call that it belongs to; "" or None: nothing."""

    id: str
    name: str
    index: int | None
    has_arguments: bool


def _hints_of(entry: dict[str, Any]) -> _Hints:
    function = entry.get("function")
    function = function if isinstance(function, dict) else {}
    id_, index = entry.get("id"), entry.get("index")
    return _Hints(
        id="" if id_ in _NO_IDS else str(id_),
        name=str(function.get("name") or ""),
        index=index if isinstance(index, int) else None,
        has_arguments=function.get("arguments") not in (None, ""),
    )
