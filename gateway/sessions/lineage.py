"""Which conversation a request continues, by what is said in it. Pure: digests of histories and of answers.

A history is known by what people and the agent said in it: how long each of it is, and how the first and the last of it
read. Instructions and tool results are left out, because agents rewrite the ones and elide the others. Digests are the
same in every process, within one caller's key; no text can be read back from them.
"""

from hashlib import blake2b

from ..values.request import NOTHING, Message, Request
from ..wire.heard import KNOWN_CHARS, Beginning
from .steps import beginning_of, text_of

# How many trailing answers are tried as the end of the previous request (agents may add several at once).
ANSWERS_TRIED = 3
# Answers that begin with less could be anybody's.
_HEARD_CHARS_MIN = 40
# Shorter ids of calls are counted up by clients.
_CALL_ID_CHARS_MIN = 8
_ENDS_CHARS = 256
_PARTS_MAX = 8
_DIGEST_BYTES = 8
_SPOKEN = ("user", "assistant")


class History:
    """One request's history, taken in once."""

    def __init__(self, key: str, request: Request) -> None:
        self._key = key
        messages = request.messages
        self._spoken = [
            (place, size, message)
            for place, (size, message) in enumerate(zip(request.sizes, messages, strict=True))
            if message.role in _SPOKEN
        ]
        self._measures = [
            (size, 0 if message.tool_calls is NOTHING else memoryview(message.tool_calls).nbytes)
            for _, size, message in self._spoken
        ]
        # Where the agent's answers stand among what was spoken, newest first.
        answers = [at for at, (_, _, message) in enumerate(self._spoken) if message.role == "assistant"]
        self._answers = answers[: -ANSWERS_TRIED - 1 : -1]
        self.digest = self._digest(len(self._spoken))
        self.opens = not answers
        self._earlier = [(self._digest(at), self._spoken[at][2]) for at in self._answers if at > 0]

    def earlier(self) -> list[tuple[int, Message]]:
        """(digest, answer): the requests that this one may continue, and what was answered to them; newest first."""
        return self._earlier

    def _digest(self, count: int) -> int:
        spoken = self._spoken[:count]
        ends = [text_ends(message) for _, _, message in (*spoken[:2], *spoken[2:][-2:])]
        return digest_of(self._key, "history", str(self._measures[:count]), *ends)


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


def text_ends(message: Message) -> str:
    """Head and tail of what a message says, enough to tell it from another of the same length."""
    content = message.content
    calls = (
        ""
        if message.tool_calls is NOTHING
        else bytes(memoryview(message.tool_calls)[:_ENDS_CHARS]).decode(errors="replace")
    )
    if isinstance(content, list):
        texts = [str(part.get("text"))[:_ENDS_CHARS] for part in content[:_PARTS_MAX] if isinstance(part, dict)]
        return f"{len(content)}{texts}{calls}"
    return f"{content[:_ENDS_CHARS]}{content[-_ENDS_CHARS:]}{calls}" if content else calls


def matches(heard: Beginning, said: Beginning) -> bool | None:
    """Whether what was heard of an answer is what a history says; None if that cannot be told. Where a call was heard,
    so were its id and all words before it."""
    if heard.call and (heard.call_id != said.call_id or bool(heard.text.strip()) != bool(said.text.strip())):
        return False
    told: bool | None = None
    for one, other in ((heard.text.strip(), said.text.strip()), (heard.call, said.call)):
        length = min(len(one), len(other))
        if one[:length] != other[:length] or (bool(one) > bool(other)):
            return False
        told = told or bool(length) or None
    return told
