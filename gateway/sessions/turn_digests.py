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

from ..dialects.answer_fingerprint import FINGERPRINT_CHARS_MAX_UNSTREAMED, AnswerFingerprint, call_fingerprint
from ..values.request import ABSENT, Message

# Arguments longer than this are compared as text, not by their parsed value.
_CANONICAL_CHARS = 4096
# Of a result, so much of head and tail is looked through for what differs in every answer; the middle is compared as it
# stands.
_HEAD_CHARS, _TAIL_CHARS = 256, 128
# Where a result says that it failed, it does so early.
_FAILURE_CHARS = 160
# Enough of a message to tell it from others.
_MESSAGE_ENDS_CHARS, _PARTS_MAX = 256, 8
# What is said in one turn is told from other turns by its first words.
_SIGNATURE_CHARS, _SIGNATURE_WORDS_MIN = 800, 4
# Shorter words beside a call say nothing ("Let me check again.").
_WORDS_CHARS_MIN = 80
_SIGNATURE_BIT_MASK = 255
_DIGITS = str.maketrans("0123456789", "0000000000")
# A duration, or a long word; of long words those are volatile that hold a digit beside something else.
_VOLATILE = re.compile(r"\d+(?:\.\d+)?\s?(?:ms|s|sec|seconds)\b|[A-Za-z0-9_:+.\-]{8,}")
_IDENTIFIER = re.compile(r"(?=.*\d)(?=.*[A-Za-z:_+\-])|\d{10,}")
# Numbers that only name the answer: `pid 4711`, `"messageId": 17`, `id_: '28'`, `ts=1700000000`.
_NAMED_NUMBER = re.compile(r"((?:id_?|I[dD]|pid|ts|seq|nonce|etag)\b[\"']?\s*[=:#]?\s*[\"']?)[\w:.+\-]*\d[\w:.+\-]*")
# Words that say so; of a list, because looking for each is faster than one expression for all.
_FAILURE_WORDS = (
    "error", "exception", "traceback", "fail", "fatal", "denied", "refused", "forbidden", "unauthorized", "invalid",
    "incorrect", "wrong", "unable", "cannot", "can't", "could not", "couldn't", "unknown", "missing", "timed out",
    "timeout", "too many requests", "rate limit", "no such", "not found", "not exist", "n't exist",
    "not recogni", "not available", "not allowed", "not permitted", "not valid",
)  # fmt: skip
_NO_FAILURE = re.compile(
    r"[\"']?\b(?:errors?|failed|failures?|exceptions?|missing)[\"']?\s*[:=]\s*(?:null|\(?none\)?|false|0\b|n/a|\"\"|''|\[\s*\]|\{\s*\})"
    r"|\b(?:0|no|without)\s+(?:errors?|fail\w*|exceptions?|missing)"
)
_EXIT_CODE = re.compile(r"(?:exit(?:ed)?(?: with)?(?: code| status)?|exitcode|returncode)\W{0,4}([1-9]\d{0,2})\b")
_REMINDER_TAG, _REMINDERS = (
    "<system-reminder>",
    re.compile(r"\s*<system-reminder>.*?(?:</system-reminder>|\Z)", re.DOTALL),
)
_FENCE = "```"
# What a refusal of ours begins with: a harness that hands it to its agent says nothing new.
STOP_MESSAGE_PREFIX = "This session repeats itself"


class StepDigest(msgspec.Struct, frozen=True, gc=False):
    """One call and its result. `shape` is the call with its digits masked, `result` without what differs every time;
    `negative`: it says that it failed."""

    tool: str
    call_digest: int
    shape_digest: int
    result_digest: int
    failed: bool


class TurnDigest(msgspec.Struct, frozen=True, gc=False):
    """What the agent did between two requests.

    `steps` are its calls with their results, `words` the digest of what it said beside them (0: next to nothing), `said`
    the signature of its words where it made no call (0: too few), `spoke` whether it answered at all. Of the user's turn
    after it: `told` and `told_exactly` are digests of what it says, whatever its numbers and with them (`told` None:
    there is none), `told_words` its signature, `told_chars` how long it is, `refused` that it holds a refusal of ours.
    """

    steps: Sequence[StepDigest]
    words_digest: int = 0
    agent_signature: int = 0
    user_digest: int | None = None
    user_digest_exact: int = 0
    user_signature: int = 0
    holds_refusal: bool = False
    user_chars: int = 0
    has_answer: bool = True


class CallDigest(msgspec.Struct, frozen=True, gc=False):
    """A call that was made: its id, its tool, its digests."""

    id: str
    tool: str
    exact_digest: int
    shape_digest: int


class _RawFunction(msgspec.Struct, gc=False):
    name: Any = None
    arguments: Any = None


class _RawCall(msgspec.Struct, gc=False):
    id: Any = None
    function: _RawFunction | None = None


_CALLS_DECODER = msgspec.json.Decoder(list[_RawCall] | None)


def digest_turns(
    messages: Sequence[Message], start: int, *, tooled: bool, pending: Sequence[CallDigest] = ()
) -> Iterator[TurnDigest]:
    """The agent's turns in `messages[start:]`. `pending` are the calls that results at the start answer, where the turn
    that made them is not in the history. Without tools (`tooled` False) a text agent's words are its call, and what
    the user's turn says is the result."""
    calls: Sequence[CallDigest] = pending
    results: list[Message] = []
    spoke: Message | None = None
    for message in messages[start:]:
        role = message.role
        if role == "assistant":
            if spoke is not None or results:
                yield _digest_turn(spoke, calls, results, None, tooled=tooled)
            spoke, calls, results = message, parse_calls(message.tool_calls), []
        elif role == "tool":
            results.append(message)
        elif role == "user":
            yield _digest_turn(spoke, calls, results, message, tooled=tooled)
            spoke, calls, results = None, (), []
    if spoke is not None or results:
        yield _digest_turn(spoke, calls, results, None, tooled=tooled)


def parse_calls(raw: msgspec.Raw) -> Sequence[CallDigest]:
    """The calls of one answer; none where they cannot be read."""
    return [digest_call(id, made.name, made.arguments) for id, made in _decode_calls(raw)]


def beginning_of(text: str, raw: msgspec.Raw) -> AnswerFingerprint:
    """How an answer begins that says this and makes these calls."""
    for id, made in _decode_calls(raw):
        return AnswerFingerprint(
            text[:FINGERPRINT_CHARS_MAX_UNSTREAMED],
            id if isinstance(id, str) else "",
            call_fingerprint(made.name, made.arguments),
        )
    return AnswerFingerprint(text[:FINGERPRINT_CHARS_MAX_UNSTREAMED], "", "")


def _decode_calls(raw: msgspec.Raw) -> Sequence[tuple[Any, _RawFunction]]:
    """(id, function) of an answer's calls; none where they cannot be read."""
    if raw is ABSENT or not memoryview(raw).nbytes:
        return ()
    try:
        found = _CALLS_DECODER.decode(raw) or []
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ()
    return [(one.id, one.function) for one in found if one.function is not None]


def digest_call(id: Any, name: Any, arguments: Any) -> CallDigest:
    """One call, by its tool and the value of its arguments."""
    tool, canonical = str(name), _canonical_arguments(arguments)
    return CallDigest(
        id=id if isinstance(id, str) else "",
        tool=tool[:64],
        exact_digest=hash((tool, canonical)),
        shape_digest=hash((tool, canonical.translate(_DIGITS))),
    )


def _digest_turn(
    spoke: Message | None,
    calls: Sequence[CallDigest],
    results: Sequence[Message],
    reply: Message | None,
    *,
    tooled: bool,
) -> TurnDigest:
    told, exactly, told_words, told_chars, refused = None, 0, 0, 0, False
    if reply is not None:
        text = message_text(reply)
        told, exactly, told_words, told_chars = user_text_digest(text), hash(text), word_signature(text), len(text)
        refused = STOP_MESSAGE_PREFIX in text
    steps = [_digest_step(call, results[at]) for at, call in _pair_results(calls, results)]
    text = message_text(spoke) if spoke is not None else ""
    acted = bool(steps or calls)
    if acted:
        words = hash(text.translate(_DIGITS)) if len(text) >= _WORDS_CHARS_MIN else 0
    else:
        action = _fenced_action(text) if not tooled and spoke is not None else ""
        if action and reply is not None:
            return TurnDigest(
                steps=[_digest_step(digest_call("", "", action), reply)], words_digest=hash(text.translate(_DIGITS))
            )
        words = hash(text)
    return TurnDigest(
        steps=steps,
        words_digest=words,
        agent_signature=0 if acted else word_signature(text),
        user_digest=told,
        user_digest_exact=exactly,
        user_signature=told_words,
        user_chars=told_chars,
        holds_refusal=refused,
        has_answer=acted or spoke is not None,
    )


def _pair_results(calls: Sequence[CallDigest], results: Sequence[Message]) -> Iterator[tuple[int, CallDigest]]:
    """(place of the result, the call that it answers): by id where that is told and unique, else by position."""
    ids = [call.id for call in calls]
    for place, result in enumerate(results):
        wanted = result.tool_call_id
        if wanted and ids.count(wanted) == 1:
            yield place, calls[ids.index(wanted)]
        elif place < len(calls):
            yield place, calls[place]


def _digest_step(call: CallDigest, result: Message) -> StepDigest:
    text = message_text(result)
    if _REMINDER_TAG in text:
        # What an agent adds to every result (how much it may still say) is none of it.
        text = _REMINDERS.sub("", text)
    return StepDigest(
        tool=call.tool,
        call_digest=call.exact_digest,
        shape_digest=call.shape_digest,
        result_digest=_stable_digest(text),
        failed=result.is_error is True or _reports_failure(text),
    )


def _stable_digest(text: str) -> int:
    """Digest of a result without what differs in every answer: times, durations, ids."""
    if len(text) <= _HEAD_CHARS + _TAIL_CHARS:
        return hash(_mask_volatile(text))
    return hash(
        (_mask_volatile(text[:_HEAD_CHARS]), text[_HEAD_CHARS:-_TAIL_CHARS], _mask_volatile(text[-_TAIL_CHARS:]))
    )


def _mask_volatile(text: str) -> str:
    return _VOLATILE.sub(_mask_match, _NAMED_NUMBER.sub(r"\1#", text))


def _mask_match(found: re.Match[str]) -> str:
    word = found[0]
    return "#" if (word[0].isdigit() and len(word) < 8) or _IDENTIFIER.match(word) else word


def _reports_failure(text: str) -> bool:
    head = text[:_FAILURE_CHARS].lower()
    for word in _FAILURE_WORDS:
        if word in head:
            # The word alone proves nothing: `"error": null`, `0 errors`.
            head = _NO_FAILURE.sub("", head)
            if any(one in head for one in _FAILURE_WORDS):
                return True
            break
    return ("exit" in head or "returncode" in head) and _EXIT_CODE.search(head) is not None


def _fenced_action(text: str) -> str:
    """What a text agent wants done: the last fenced block of its words, "" if there is none."""
    parts = text.rsplit(_FENCE, 2)
    return parts[1].strip() if len(parts) == 3 else ""


def user_text_digest(text: str) -> int:
    """Digest of what a user's turn says, whatever its numbers."""
    return hash(text.translate(_DIGITS))


def word_signature(text: str) -> int:
    """Which words a turn began with, one bit each of 256: near duplicates have most bits in common."""
    words = text[:_SIGNATURE_CHARS].lower().split()
    if len(words) < _SIGNATURE_WORDS_MIN:
        return 0
    signature = 0
    for word in words:
        signature |= 1 << (hash(word) & _SIGNATURE_BIT_MASK)
    return signature


def message_text(message: Message) -> str:
    """What a message says."""
    content = message.content
    if isinstance(content, list):
        return "\n".join([_part_text(part) for part in content if isinstance(part, dict)])
    return content or ""


def message_ends(message: Message) -> str:
    """Head and tail of what a message says, enough to tell it from another of the same length."""
    content = message.content
    calls = (
        ""
        if message.tool_calls is ABSENT
        else bytes(memoryview(message.tool_calls)[:_MESSAGE_ENDS_CHARS]).decode(errors="replace")
    )
    if isinstance(content, list):
        texts = [str(part.get("text"))[:_MESSAGE_ENDS_CHARS] for part in content[:_PARTS_MAX] if isinstance(part, dict)]
        return f"{len(content)}{texts}{calls}"
    return f"{content[:_MESSAGE_ENDS_CHARS]}{content[-_MESSAGE_ENDS_CHARS:]}{calls}" if content else calls


def _part_text(part: dict[str, Any]) -> str:
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


def _canonical_arguments(arguments: Any) -> str:
    """Arguments as one text whatever the order and spacing of their keys; text that is no JSON as it is."""
    if not isinstance(arguments, str):
        return json.dumps(arguments, sort_keys=True, default=str)
    if len(arguments) > _CANONICAL_CHARS:
        return arguments
    try:
        return orjson.dumps(orjson.loads(arguments), option=orjson.OPT_SORT_KEYS).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return arguments
