"""Digests of histories and answers that identify a conversation. Pure.

A history digest covers the user and assistant messages: the sizes of the newest, and both ends of the first and last
ones. Instructions and tool results are left out, because agents rewrite the former and elide the latter. Digests are
the same in every process within one caller's key; no text can be recovered from them.
"""

from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice

from ..dialects.answer_fingerprint import FINGERPRINT_CHARS_DEFAULT, AnswerFingerprint
from ..values.request import Message, Request
from .turn_digests import fingerprint_from, message_ends, message_text

# Trailing answers tried as the end of the previous request (agents may add several at once).
ANSWERS_TRIED = 3
# A shorter beginning does not identify an answer.
_DISTINCTIVE_CHARS_MIN = 40
# Shorter call ids may be counters of the client.
_CALL_ID_CHARS_MIN = 8
_THINKING_TAG = "<think"
_DIGEST_BYTES = 8
# Messages considered: the first, the newest, and the newest before an answer.
_FIRST_MESSAGES, _NEWEST_MESSAGES, _COMPARED_MESSAGES = 2, 40, 32
_CHAT_ROLES = ("user", "assistant")


class History:
    """One request's history, read once; bounded work however long it is."""

    def __init__(self, key: str, request: Request) -> None:
        self._key = key
        self._messages, self._sizes = request.messages, request.sizes
        messages = self._messages
        # Indices of user and assistant messages: the first ones, and the newest, newest first.
        if len(messages) <= _NEWEST_MESSAGES:
            indices = [index for index, message in enumerate(messages) if message.role in _CHAT_ROLES]
            self._first_indices, self._newest_indices = indices[:_FIRST_MESSAGES], indices[::-1]
        else:
            every_index = range(len(messages))
            self._first_indices = list(
                islice((index for index in every_index if messages[index].role in _CHAT_ROLES), _FIRST_MESSAGES)
            )
            self._newest_indices = list(
                islice(
                    (index for index in reversed(every_index) if messages[index].role in _CHAT_ROLES), _NEWEST_MESSAGES
                )
            )
        self._answer_indices = [index for index in self._newest_indices if messages[index].role == "assistant"][
            :ANSWERS_TRIED
        ]
        self._ends_by_index: dict[int, str] = {}
        self._earlier_requests: list[tuple[int, Message]] = []
        self.digest = self._digest(len(messages))
        self.is_opening = not self._answer_indices

    def earlier_requests(self) -> Iterator[tuple[int, Message]]:
        """(digest, answer) of the requests that this one may continue, newest first."""
        answers = [index for index in self._answer_indices if index > self._first_indices[0]]
        for number, index in enumerate(answers):
            if number == len(self._earlier_requests):
                self._earlier_requests.append((self._digest(index), self._messages[index]))
            yield self._earlier_requests[number]

    def _digest(self, count: int) -> int:
        """Digest of the first `count` messages.

        It covers their count, the sizes of the newest, and the ends of the first and last ones.
        """
        newest = (
            self._newest_indices
            if count == len(self._messages)
            else [index for index in self._newest_indices if index < count]
        )
        if len(newest) < _COMPARED_MESSAGES and len(self._newest_indices) == _NEWEST_MESSAGES:
            # The answered request ends further back than the window.
            newest = list(
                islice(
                    (index for index in range(count - 1, -1, -1) if self._messages[index].role in _CHAT_ROLES),
                    _COMPARED_MESSAGES,
                )
            )
        newest = newest[:_COMPARED_MESSAGES]
        indices = sorted({*[index for index in self._first_indices if index < count], *newest[:2]})
        text = "\0".join(
            [
                self._key,
                str(count),
                str([self._sizes[index] for index in newest]),
                *[self._message_ends(index) for index in indices],
            ]
        )
        digest = blake2b(text.encode(errors="replace"), digest_size=_DIGEST_BYTES).digest()
        return int.from_bytes(digest, "little")

    def _message_ends(self, index: int) -> str:
        ends = self._ends_by_index.get(index)
        if ends is None:
            ends = self._ends_by_index[index] = message_ends(self._messages[index])
        return ends


def answer_digests(key: str, answer: AnswerFingerprint) -> list[int]:
    """Digests that identify an answer, empty if it is not distinctive.

    An answer is identified by its first call's id, else by its beginning.
    """
    if len(answer.call_id) >= _CALL_ID_CHARS_MIN:
        return [digest_texts(key, "call", answer.call_id)]
    for beginning in (answer.text, answer.call):
        if len(beginning) >= _DISTINCTIVE_CHARS_MIN:
            return [digest_texts(key, "said", beginning[:FINGERPRINT_CHARS_DEFAULT])]
    return []


def answer_fingerprint(message: Message) -> AnswerFingerprint:
    """The fingerprint of an answer in a history."""
    return fingerprint_from(message_text(message), message.tool_calls)


def digest_texts(*parts: str) -> int:
    """One 64-bit digest of these texts, with their boundaries."""
    text = "\0".join([f"{len(part)}:{part}" for part in parts])
    return int.from_bytes(blake2b(text.encode(errors="replace"), digest_size=_DIGEST_BYTES).digest(), "little")


def answers_match(answer: AnswerFingerprint, history_answer: AnswerFingerprint) -> bool | None:
    """Whether a recorded answer is the one in a history; None if undecidable.

    A recorded call implies that its id and all text before it were recorded.
    """
    if answer.text.lstrip().startswith(_THINKING_TAG):
        # Agents drop the model's visible reasoning from the history.
        return None
    if len(answer.call_id) >= _CALL_ID_CHARS_MIN and (
        answer.call_id == history_answer.call_id or answer.call_id in history_answer.text
    ):
        # Some agents repeat their calls as text.
        return True
    if answer.call and (
        answer.call_id != history_answer.call_id or bool(answer.text.strip()) != bool(history_answer.text.strip())
    ):
        return False
    matches: bool | None = None
    for recorded, sent in ((answer.text.strip(), history_answer.text.strip()), (answer.call, history_answer.call)):
        length = min(len(recorded), len(sent))
        if recorded[:length] != sent[:length] or (bool(recorded) > bool(sent)):
            return False
        matches = matches or bool(length) or None
    return matches
