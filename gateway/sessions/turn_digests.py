"""What an agent did, turn by turn, as digests: its calls and what came back, what it said, and what it was told.

Pure. Reads a conversation in the shape of chat completions, from a given message on, with bounded work for each; keeps
no text. Digests are Python's keyed hash: cheap, and of no use outside this process.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import orjson

from ..dialects.answer_fingerprint import WHOLE_CHARS, Beginning, call_text
from ..values.request import NOTHING, Message

# Arguments longer than this are compared as text, not by their parsed value.
_CANONICAL_CHARS = 4096
# Of a result, so much of head and tail is looked through for what differs in every answer; the middle is compared as it
# stands.
_HEAD_CHARS, _TAIL_CHARS = 256, 128
# Where a result says that it failed, it does so early.
_VERDICT_CHARS = 160
# Enough of a message to tell it from others.
_ENDS_CHARS, _PARTS_MAX = 256, 8
# What is said in one turn is told from other turns by its first words.
_SAID_CHARS, _SAID_WORDS_MIN = 800, 4
# Shorter words beside a call say nothing ("Let me check again.").
_WORDS_CHARS_MIN = 80
_SIGNATURE_BITS = 255
_DIGITS = str.maketrans("0123456789", "0000000000")
# A duration, or a long word; of long words those are volatile that hold a digit beside something else.
_VOLATILE = re.compile(r"\d+(?:\.\d+)?\s?(?:ms|s|sec|seconds)\b|[A-Za-z0-9_:+.\-]{8,}")
_TELLING = re.compile(r"(?=.*\d)(?=.*[A-Za-z:_+\-])|\d{10,}")
# Numbers that only name the answer: `pid 4711`, `"messageId": 17`, `id_: '28'`, `ts=1700000000`.
_NAMED = re.compile(r"((?:id_?|I[dD]|pid|ts|seq|nonce|etag)\b[\"']?\s*[=:#]?\s*[\"']?)[\w:.+\-]*\d[\w:.+\-]*")
# Words that say so; of a list, because looking for each is faster than one expression for all.
_FAILED = (
    "error", "exception", "traceback", "fail", "fatal", "denied", "refused", "forbidden", "unauthorized", "invalid",
    "incorrect", "wrong", "unable", "cannot", "can't", "could not", "couldn't", "unknown", "missing", "timed out",
    "timeout", "too many requests", "rate limit", "no such", "not found", "not exist", "n't exist",
    "not recogni", "not available", "not allowed", "not permitted", "not valid",
)  # fmt: skip
_NO_FAILURE = re.compile(
    r"[\"']?\b(?:errors?|failed|failures?|exceptions?|missing)[\"']?\s*[:=]\s*(?:null|\(?none\)?|false|0\b|n/a|\"\"|''|\[\s*\]|\{\s*\})"
    r"|\b(?:0|no|without)\s+(?:errors?|fail\w*|exceptions?|missing)"
)
_EXIT = re.compile(r"(?:exit(?:ed)?(?: with)?(?: code| status)?|exitcode|returncode)\W{0,4}([1-9]\d{0,2})\b")
_NOTE, _NOTES = "<system-reminder>", re.compile(r"\s*<system-reminder>.*?(?:</system-reminder>|\Z)", re.DOTALL)
_FENCE = "```"
# What a refusal of ours begins with: a harness that hands it to its agent says nothing new.
REFUSED = "This session repeats itself"


class Step(msgspec.Struct, frozen=True, gc=False):
    """One call and its result. `shape` is the call with its digits masked, `result` without what differs every time;
    `negative`: it says that it failed."""

    tool: str
    call: int
    shape: int
    result: int
    negative: bool


class Turn(msgspec.Struct, frozen=True, gc=False):
    """What the agent did between two requests.

    `steps` are its calls with their results, `words` the digest of what it said beside them (0: next to nothing), `said`
    the signature of its words where it made no call (0: too few), `spoke` whether it answered at all. Of the user's turn
    after it: `told` and `told_exactly` are digests of what it says, whatever its numbers and with them (`told` None:
    there is none), `told_words` its signature, `told_chars` how long it is, `refused` that it holds a refusal of ours.
    """

    steps: Sequence[Step]
    words: int = 0
    said: int = 0
    told: int | None = None
    told_exactly: int = 0
    told_words: int = 0
    refused: bool = False
    told_chars: int = 0
    spoke: bool = True


class Call(msgspec.Struct, frozen=True, gc=False):
    """A call that was made: its id, its tool, its digests."""

    id: str
    tool: str
    digest: int
    shape: int


class _Function(msgspec.Struct, gc=False):
    name: Any = None
    arguments: Any = None


class _RawCall(msgspec.Struct, gc=False):
    id: Any = None
    function: _Function | None = None


_CALLS = msgspec.json.Decoder(list[_RawCall] | None)


def turns_of(messages: Sequence[Message], start: int, *, tooled: bool, pending: Sequence[Call] = ()) -> Iterator[Turn]:
    """The agent's turns in `messages[start:]`. `pending` are the calls that results at the start answer, where the turn
    that made them is not in the history. Without tools (`tooled` False) a text agent's words are its call, and what
    the user's turn says is the result."""
    calls: Sequence[Call] = pending
    results: list[Message] = []
    spoke: Message | None = None
    for message in messages[start:]:
        role = message.role
        if role == "assistant":
            if spoke is not None or results:
                yield _turn(spoke, calls, results, None, tooled=tooled)
            spoke, calls, results = message, calls_of(message.tool_calls), []
        elif role == "tool":
            results.append(message)
        elif role == "user":
            yield _turn(spoke, calls, results, message, tooled=tooled)
            spoke, calls, results = None, (), []
    if spoke is not None or results:
        yield _turn(spoke, calls, results, None, tooled=tooled)


def calls_of(raw: msgspec.Raw) -> Sequence[Call]:
    """The calls of one answer; none where they cannot be read."""
    return [call_of(id, made.name, made.arguments) for id, made in _calls_in(raw)]


def beginning_of(text: str, raw: msgspec.Raw) -> Beginning:
    """How an answer begins that says this and makes these calls."""
    for id, made in _calls_in(raw):
        return Beginning(text[:WHOLE_CHARS], id if isinstance(id, str) else "", call_text(made.name, made.arguments))
    return Beginning(text[:WHOLE_CHARS], "", "")


def _calls_in(raw: msgspec.Raw) -> Sequence[tuple[Any, _Function]]:
    """(id, function) of an answer's calls; none where they cannot be read."""
    if raw is NOTHING or not memoryview(raw).nbytes:
        return ()
    try:
        found = _CALLS.decode(raw) or []
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ()
    return [(one.id, one.function) for one in found if one.function is not None]


def call_of(id: Any, name: Any, arguments: Any) -> Call:
    """One call, by its tool and the value of its arguments."""
    tool, canonical = str(name), _canonical(arguments)
    return Call(
        id=id if isinstance(id, str) else "",
        tool=tool[:64],
        digest=hash((tool, canonical)),
        shape=hash((tool, canonical.translate(_DIGITS))),
    )


def _turn(
    spoke: Message | None, calls: Sequence[Call], results: Sequence[Message], reply: Message | None, *, tooled: bool
) -> Turn:
    told, exactly, told_words, told_chars, refused = None, 0, 0, 0, False
    if reply is not None:
        text = text_of(reply)
        told, exactly, told_words, told_chars = told_of(text), hash(text), signature_of(text), len(text)
        refused = REFUSED in text
    steps = [_step(call, results[at]) for at, call in _answered(calls, results)]
    text = text_of(spoke) if spoke is not None else ""
    acted = bool(steps or calls)
    if acted:
        words = hash(text.translate(_DIGITS)) if len(text) >= _WORDS_CHARS_MIN else 0
    else:
        action = _action(text) if not tooled and spoke is not None else ""
        if action and reply is not None:
            return Turn(steps=[_step(call_of("", "", action), reply)], words=hash(text.translate(_DIGITS)))
        words = hash(text)
    return Turn(
        steps=steps,
        words=words,
        said=0 if acted else signature_of(text),
        told=told,
        told_exactly=exactly,
        told_words=told_words,
        told_chars=told_chars,
        refused=refused,
        spoke=acted or spoke is not None,
    )


def _answered(calls: Sequence[Call], results: Sequence[Message]) -> Iterator[tuple[int, Call]]:
    """(place of the result, the call that it answers): by id where that is told and unique, else by position."""
    ids = [call.id for call in calls]
    for place, result in enumerate(results):
        wanted = result.tool_call_id
        if wanted and ids.count(wanted) == 1:
            yield place, calls[ids.index(wanted)]
        elif place < len(calls):
            yield place, calls[place]


def _step(call: Call, result: Message) -> Step:
    text = text_of(result)
    if _NOTE in text:
        # What an agent adds to every result (how much it may still say) is none of it.
        text = _NOTES.sub("", text)
    return Step(
        tool=call.tool,
        call=call.digest,
        shape=call.shape,
        result=_steady(text),
        negative=result.is_error is True or _is_negative(text),
    )


def _steady(text: str) -> int:
    """Digest of a result without what differs in every answer: times, durations, ids."""
    if len(text) <= _HEAD_CHARS + _TAIL_CHARS:
        return hash(_masked(text))
    return hash((_masked(text[:_HEAD_CHARS]), text[_HEAD_CHARS:-_TAIL_CHARS], _masked(text[-_TAIL_CHARS:])))


def _masked(text: str) -> str:
    return _VOLATILE.sub(_mask, _NAMED.sub(r"\1#", text))


def _mask(found: re.Match[str]) -> str:
    word = found[0]
    return "#" if (word[0].isdigit() and len(word) < 8) or _TELLING.match(word) else word


def _is_negative(text: str) -> bool:
    head = text[:_VERDICT_CHARS].lower()
    for word in _FAILED:
        if word in head:
            # The word alone proves nothing: `"error": null`, `0 errors`.
            head = _NO_FAILURE.sub("", head)
            if any(one in head for one in _FAILED):
                return True
            break
    return ("exit" in head or "returncode" in head) and _EXIT.search(head) is not None


def _action(text: str) -> str:
    """What a text agent wants done: the last fenced block of its words, "" if there is none."""
    parts = text.rsplit(_FENCE, 2)
    return parts[1].strip() if len(parts) == 3 else ""


def told_of(text: str) -> int:
    """Digest of what a user's turn says, whatever its numbers."""
    return hash(text.translate(_DIGITS))


def signature_of(text: str) -> int:
    """Which words a turn began with, one bit each of 256: near duplicates have most bits in common."""
    words = text[:_SAID_CHARS].lower().split()
    if len(words) < _SAID_WORDS_MIN:
        return 0
    signature = 0
    for word in words:
        signature |= 1 << (hash(word) & _SIGNATURE_BITS)
    return signature


def text_of(message: Message) -> str:
    """What a message says."""
    content = message.content
    if isinstance(content, list):
        return "\n".join([_part(part) for part in content if isinstance(part, dict)])
    return content or ""


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


def _part(part: dict[str, Any]) -> str:
    """Text as it is; of pictures and files enough to tell one from another."""
    text = part.get("text")
    if isinstance(text, str):
        return text
    picture = part.get("image_url")
    if "media_bytes" in part:
        told = repr(part)
    elif isinstance(picture, dict):
        told = str(next(iter(picture.values()), ""))
    else:
        told = repr(sorted(part))
    return f"{len(told)}:{told[-64:]}"


def _canonical(arguments: Any) -> str:
    """Arguments as one text whatever the order and spacing of their keys; text that is no JSON as it is."""
    if not isinstance(arguments, str):
        return json.dumps(arguments, sort_keys=True, default=str)
    if len(arguments) > _CANONICAL_CHARS:
        return arguments
    try:
        return orjson.dumps(orjson.loads(arguments), option=orjson.OPT_SORT_KEYS).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return arguments
