"""What long sessions are made of: steps, texts and whole talks of real healthy sessions."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from .decision_points import text_of
from .recordings import Message, Recording

# Longer texts are cut, so that five hundred calls stay a session that some model could have read.
_TEXT_CHARS = 1500
# Shorter results are no page of a document.
_PAGE_CHARS = 200
# Results that say no more than that it was done.
_NEUTRAL = frozenset({"none", "ok", "null", "true", "success", "done", "transfer successful"})
_TALK_USER_TURNS = 3
# More of the very same step are a loop by Crush's rule (loops.md section 1, without its window).
_SAME_STEPS_MAX = 5


class Pair(msgspec.Struct, frozen=True):
    """One real call: what the agent said with it, the call as it was sent, the result."""

    said: str
    name: str
    arguments: str
    result: str


class Material(msgspec.Struct, frozen=True):
    """`tools` are distinct pairs by tool, the richest tool first; `neutral` brought nothing to read; `pages` are
    results long enough to be one; `talks` have several user turns, `errands` one, both by source."""

    tools: Sequence[Sequence[Pair]]
    neutral: Sequence[Pair]
    pages: Sequence[str]
    talks: Mapping[str, Sequence[Recording]]
    errands: Mapping[str, Sequence[Recording]]


def gathered(recordings: Iterable[Recording]) -> Material:
    """Take apart the real healthy sessions. Raises ValueError if there is too little to make anything of."""
    tools: dict[str, dict[tuple[str, str], Pair]] = defaultdict(dict)
    pages: dict[str, None] = {}
    talks: dict[str, list[Recording]] = defaultdict(list)
    errands: dict[str, list[Recording]] = defaultdict(list)
    for recording in recordings:
        if recording.label != "healthy" or recording.synthetic:
            continue
        pairs = pairs_of(recording)
        for pair in pairs:
            tools[pair.name].setdefault((pair.arguments, pair.result), pair)
        texts = [pair.result for pair in pairs] + _outputs(recording)
        pages.update((text, None) for text in texts if len(text) >= _PAGE_CHARS)
        turns = sum(message["role"] == "user" for message in recording.messages)
        if pairs and not _stuck(pairs):
            whole = talks if turns >= _TALK_USER_TURNS else errands
            whole[recording.source].append(recording)
    every = sorted((list(found.values()) for found in tools.values()), key=len, reverse=True)
    neutral = [pair for found in every for pair in found if pair.result.strip().lower() in _NEUTRAL]
    if not (every and neutral and pages and talks and errands):
        raise ValueError("too few healthy sessions to make long ones of: tools, pages of text and talks are needed")
    return Material(tools=every, neutral=neutral, pages=list(pages), talks=talks, errands=errands)


def _stuck(pairs: Sequence[Pair]) -> bool:
    """Whether the session, though it came to a good end, had a loop in it by Crush's rule: that is no healthy work."""
    done = [(pair.name, pair.arguments, pair.result) for pair in pairs]
    return any(done.count(one) > _SAME_STEPS_MAX for one in set(done))


def pairs_of(recording: Recording) -> list[Pair]:
    """The session's live turns of one call and one result; turns of several calls stay out of it."""
    pairs = []
    for place in recording.places:
        calls: Sequence[Message] = recording.messages[place].get("tool_calls") or ()
        after = recording.messages[place + 1 : place + 2]
        function = calls[0].get("function") if len(calls) == 1 else None
        if not after or after[0]["role"] != "tool" or not isinstance(function, dict):
            continue
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(name, str) and isinstance(arguments, str):
            said, result = text_of(recording.messages[place]), text_of(after[0])[:_TEXT_CHARS]
            pairs.append(Pair(said, name, arguments, result))
    return pairs


def _outputs(recording: Recording) -> list[str]:
    """What commands of text protocols printed: the user's turn after an answer with a command in it."""
    messages = recording.messages
    return [
        text_of(messages[place + 1])[:_TEXT_CHARS]
        for place in recording.places
        if "_action" in messages[place] and place + 1 < len(messages) and messages[place + 1]["role"] == "user"
    ]
