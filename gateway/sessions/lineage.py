"""Which conversation a request continues, by what is said in it. Pure: digests of histories and of answers.

A history is known by what people and the agent said in it: how long the newest of it is, and how the first and the last
of it read. Instructions and tool results are left out, because agents rewrite the ones and elide the others. Digests
are the same in every process, within one caller's key; no text can be read back from them.
"""

from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice

from ..dialects.answer_fingerprint import KNOWN_CHARS, Beginning
from ..values.request import Message, Request
from .turn_digests import beginning_of, text_ends, text_of

# How many trailing answers are tried as the end of the previous request (agents may add several at once).
ANSWERS_TRIED = 3
# Answers that begin with less could be anybody's.
_HEARD_CHARS_MIN = 40
# Shorter ids of calls are counted up by clients.
_CALL_ID_CHARS_MIN = 8
_THINKING = "<think"
_DIGEST_BYTES = 8
# How many messages are looked at: at the beginning, of the newest, and of the newest before an answer.
_FIRST, _WINDOW, _COMPARED = 2, 40, 32
_SPOKEN = ("user", "assistant")


class History:
    """One request's history, taken in once; costs no more for a long one."""

    def __init__(self, key: str, request: Request) -> None:
        self._key = key
        self._messages, self._sizes = request.messages, request.sizes
        messages = self._messages
        # The newest of what was spoken, the newest first, and where the agent's answers stand among it.
        if len(messages) <= _WINDOW:
            spoken = [at for at, message in enumerate(messages) if message.role in _SPOKEN]
            self._first, self._newest = spoken[:_FIRST], spoken[::-1]
        else:
            places = range(len(messages))
            self._first = list(islice((at for at in places if messages[at].role in _SPOKEN), _FIRST))
            self._newest = list(islice((at for at in reversed(places) if messages[at].role in _SPOKEN), _WINDOW))
        self._answers = [at for at in self._newest if messages[at].role == "assistant"][:ANSWERS_TRIED]
        self._ends: dict[int, str] = {}
        self._earlier: list[tuple[int, Message]] = []
        self.digest = self._digest(len(messages))
        self.opens = not self._answers

    def earlier(self) -> Iterator[tuple[int, Message]]:
        """(digest, answer): the requests that this one may continue, and what was answered to them; newest first."""
        answers = [at for at in self._answers if at > self._first[0]]
        for number, at in enumerate(answers):
            if number == len(self._earlier):
                self._earlier.append((self._digest(at), self._messages[at]))
            yield self._earlier[number]

    def _digest(self, count: int) -> int:
        """Of the first `count` messages: how many they are, how the first read, how long the newest are, and how the last
        two read."""
        newest = self._newest if count == len(self._messages) else [at for at in self._newest if at < count]
        if len(newest) < _COMPARED and len(self._newest) == _WINDOW:
            # Further back than the window: the request that was answered ends there.
            newest = list(
                islice((at for at in range(count - 1, -1, -1) if self._messages[at].role in _SPOKEN), _COMPARED)
            )
        newest = newest[:_COMPARED]
        places = sorted({*[at for at in self._first if at < count], *newest[:2]})
        told = "\0".join(
            [self._key, str(count), str([self._sizes[at] for at in newest]), *[self._end(at) for at in places]]
        )
        digest = blake2b(told.encode(errors="replace"), digest_size=_DIGEST_BYTES).digest()
        return int.from_bytes(digest, "little")

    def _end(self, at: int) -> str:
        found = self._ends.get(at)
        if found is None:
            found = self._ends[at] = text_ends(self._messages[at])
        return found


def answer_keys(key: str, said: Beginning) -> list[int]:
    """Under which an answer is known: by its first call where that has an id of its own, else by how it begins; none if
    it could be anybody's."""
    if len(said.call_id) >= _CALL_ID_CHARS_MIN:
        return [digest_of(key, "call", said.call_id)]
    for beginning in (said.text, said.call):
        if len(beginning) >= _HEARD_CHARS_MIN:
            return [digest_of(key, "said", beginning[:KNOWN_CHARS])]
    return []


def said_by(message: Message) -> Beginning:
    """How an answer in a history begins."""
    return beginning_of(text_of(message), message.tool_calls)


def digest_of(*parts: str) -> int:
    """One number for these texts, none of which passes for two."""
    text = "\0".join([f"{len(part)}:{part}" for part in parts])
    return int.from_bytes(blake2b(text.encode(errors="replace"), digest_size=_DIGEST_BYTES).digest(), "little")


def matches(heard: Beginning, said: Beginning) -> bool | None:
    """Whether what was heard of an answer is what a history says; None if that cannot be told. Where a call was heard,
    so were its id and all words before it."""
    if heard.text.lstrip().startswith(_THINKING):
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
