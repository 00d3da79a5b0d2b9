"""Which conversation a request continues, by what is said in it. Pure: digests of histories and of answers.

A history is known by what people and the agent said in it: how long the newest of it is, and how the first and the last
of it read. Instructions and tool results are left out, because agents rewrite the ones and elide the others. Digests
are the same in every process, within one caller's key; no text can be read back from them.
"""

from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice

from ..dialects.answer_fingerprint import FINGERPRINT_CHARS_DEFAULT, AnswerFingerprint
from ..values.request import Message, Request
from .turn_digests import beginning_of, message_ends, message_text

# How many trailing answers are tried as the end of the previous request (agents may add several at once).
ANSWERS_TRIED = 3
# Answers that begin with less could be anybody's.
_DISTINCTIVE_CHARS_MIN = 40
# Shorter ids of calls are counted up by clients.
_CALL_ID_CHARS_MIN = 8
_THINKING_TAG = "<think"
_DIGEST_BYTES = 8
# How many messages are looked at: at the beginning, of the newest, and of the newest before an answer.
_FIRST_MESSAGES, _NEWEST_MESSAGES, _COMPARED_MESSAGES = 2, 40, 32
_SPOKEN_ROLES = ("user", "assistant")


class History:
    """One request's history, taken in once; costs no more for a long one."""

    def __init__(self, key: str, request: Request) -> None:
        self._key = key
        self._messages, self._sizes = request.messages, request.sizes
        messages = self._messages
        # The newest of what was spoken, the newest first, and where the agent's answers stand among it.
        if len(messages) <= _NEWEST_MESSAGES:
            spoken = [at for at, message in enumerate(messages) if message.role in _SPOKEN_ROLES]
            self._first_places, self._newest_places = spoken[:_FIRST_MESSAGES], spoken[::-1]
        else:
            places = range(len(messages))
            self._first_places = list(
                islice((at for at in places if messages[at].role in _SPOKEN_ROLES), _FIRST_MESSAGES)
            )
            self._newest_places = list(
                islice((at for at in reversed(places) if messages[at].role in _SPOKEN_ROLES), _NEWEST_MESSAGES)
            )
        self._answer_places = [at for at in self._newest_places if messages[at].role == "assistant"][:ANSWERS_TRIED]
        self._ends_by_place: dict[int, str] = {}
        self._earlier_requests: list[tuple[int, Message]] = []
        self.digest = self._digest(len(messages))
        self.is_opening = not self._answer_places

    def earlier_requests(self) -> Iterator[tuple[int, Message]]:
        """(digest, answer): the requests that this one may continue, and what was answered to them; newest first."""
        answers = [at for at in self._answer_places if at > self._first_places[0]]
        for number, at in enumerate(answers):
            if number == len(self._earlier_requests):
                self._earlier_requests.append((self._digest(at), self._messages[at]))
            yield self._earlier_requests[number]

    def _digest(self, count: int) -> int:
        """Of the first `count` messages: how many they are, how the first read, how long the newest are, and how the last
        two read."""
        newest = (
            self._newest_places if count == len(self._messages) else [at for at in self._newest_places if at < count]
        )
        if len(newest) < _COMPARED_MESSAGES and len(self._newest_places) == _NEWEST_MESSAGES:
            # Further back than the window: the request that was answered ends there.
            newest = list(
                islice(
                    (at for at in range(count - 1, -1, -1) if self._messages[at].role in _SPOKEN_ROLES),
                    _COMPARED_MESSAGES,
                )
            )
        newest = newest[:_COMPARED_MESSAGES]
        places = sorted({*[at for at in self._first_places if at < count], *newest[:2]})
        told = "\0".join(
            [self._key, str(count), str([self._sizes[at] for at in newest]), *[self._message_ends(at) for at in places]]
        )
        digest = blake2b(told.encode(errors="replace"), digest_size=_DIGEST_BYTES).digest()
        return int.from_bytes(digest, "little")

    def _message_ends(self, at: int) -> str:
        found = self._ends_by_place.get(at)
        if found is None:
            found = self._ends_by_place[at] = message_ends(self._messages[at])
        return found


def answer_digests(key: str, said: AnswerFingerprint) -> list[int]:
    """Under which an answer is known: by its first call where that has an id of its own, else by how it begins; none if
    it could be anybody's."""
    if len(said.call_id) >= _CALL_ID_CHARS_MIN:
        return [digest_texts(key, "call", said.call_id)]
    for beginning in (said.text, said.call):
        if len(beginning) >= _DISTINCTIVE_CHARS_MIN:
            return [digest_texts(key, "said", beginning[:FINGERPRINT_CHARS_DEFAULT])]
    return []


def answer_beginning(message: Message) -> AnswerFingerprint:
    """How an answer in a history begins."""
    return beginning_of(message_text(message), message.tool_calls)


def digest_texts(*parts: str) -> int:
    """One number for these texts, none of which passes for two."""
    text = "\0".join([f"{len(part)}:{part}" for part in parts])
    return int.from_bytes(blake2b(text.encode(errors="replace"), digest_size=_DIGEST_BYTES).digest(), "little")


def answers_match(heard: AnswerFingerprint, said: AnswerFingerprint) -> bool | None:
    """Whether what was heard of an answer is what a history says; None if that cannot be told. Where a call was heard,
    so were its id and all words before it."""
    if heard.text.lstrip().startswith(_THINKING_TAG):
        # Agents leave out of the history what the model thought aloud.
        return None
    if len(heard.call_id) >= _CALL_ID_CHARS_MIN and (heard.call_id == said.call_id or heard.call_id in said.text):
        # Some agents tell their calls again in words.
        return True
    if heard.call and (heard.call_id != said.call_id or bool(heard.text.strip()) != bool(said.text.strip())):
        return False
    told: bool | None = None
    for one, other in ((heard.text.strip(), said.text.strip()), (heard.call, said.call)):
        length = min(len(one), len(other))
        if one[:length] != other[:length] or (bool(one) > bool(other)):
            return False
        told = told or bool(length) or None
    return told
