"""Digests of an agent's turns: calls, results, text and the user's reply. Pure.

Reads a chat-completions conversation from a given message on, with bounded work per message, and keeps no text. Digests
are Python's keyed hash: cheap, and meaningless outside this process.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import orjson

from ..dialects.answer_fingerprint import FINGERPRINT_CHARS_MAX_UNSTREAMED, AnswerFingerprint, call_fingerprint
from ..values.request import ABSENT, Message

# Longer arguments are compared as text, not by their parsed value.
_CANONICAL_CHARS = 4096
# Volatile parts are masked in the head and tail of a result; the middle is compared verbatim.
_HEAD_CHARS, _TAIL_CHARS = 256, 128
# A result that reports a failure does so early.
_FAILURE_CHARS = 160
# Enough of a message to identify it.
_MESSAGE_ENDS_CHARS, _PARTS_MAX = 256, 8
# The first words of a turn form its signature.
_SIGNATURE_CHARS, _SIGNATURE_WORDS_MIN = 800, 4
# Shorter text beside a call is ignored ("Let me check again.").
_WORDS_CHARS_MIN = 80
_SIGNATURE_BIT_MASK = 255
_DIGITS = str.maketrans("0123456789", "0000000000")
# A duration, or a long word; a long word is volatile if it mixes digits with other characters.
_VOLATILE = re.compile(r"\d+(?:\.\d+)?\s?(?:ms|s|sec|seconds)\b|[A-Za-z0-9_:+.\-]{8,}")
_IDENTIFIER = re.compile(r"(?=.*\d)(?=.*[A-Za-z:_+\-])|\d{10,}")
# Numbers that only identify the result: `pid 4711`, `"messageId": 17`, `id_: '28'`, `ts=1700000000`.
_NAMED_NUMBER = re.compile(r"((?:id_?|I[dD]|pid|ts|seq|nonce|etag)\b[\"']?\s*[=:#]?\s*[\"']?)[\w:.+\-]*\d[\w:.+\-]*")
# Failure words; a list, because searching for each is faster than one expression for all.
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
# Beginning of our own stop message: a harness that passes it to its agent adds no new input.
STOP_MESSAGE_PREFIX = "This session repeats itself"


class StepDigest(msgspec.Struct, frozen=True, gc=False):
    """One call and its result.

    tool: tool name.
    call_digest: tool and arguments.
    shape_digest: the call with its digits masked.
    result_digest: the result without its volatile parts.
    failed: the result reports a failure.
    """

    tool: str
    call_digest: int
    shape_digest: int
    result_digest: int
    failed: bool


class TurnDigest(msgspec.Struct, frozen=True, gc=False):
    """What the agent did between two requests, and the user's reply.

    steps: calls with their results.
    words_digest: text beside the calls, 0 for too little.
    agent_signature: word signature of a turn without calls, 0 for too few words.
    user_digest: user's reply with its digits masked, None without a reply.
    user_digest_exact: user's reply, digits included.
    user_signature: word signature of the user's reply.
    holds_refusal: the reply contains our own stop message.
    user_chars: length of the user's reply in characters.
    has_answer: the turn contains an assistant message.
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
    """One tool call: its id, tool, exact digest, and digest with its digits masked."""

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
    """Digest the agent's turns in `messages[start:]`.

    `pending`: calls whose results come first, where the turn that made them is not in the history. Without tools
    (`tooled` False) the text agent's fenced block is its call and the user's turn the result.
    """
    calls: Sequence[CallDigest] = pending
    results: list[Message] = []
    answer: Message | None = None
    for message in messages[start:]:
        role = message.role
        if role == "assistant":
            if answer is not None or results:
                yield _digest_turn(answer, calls, results, None, tooled=tooled)
            answer, calls, results = message, parse_calls(message.tool_calls), []
        elif role == "tool":
            results.append(message)
        elif role == "user":
            yield _digest_turn(answer, calls, results, message, tooled=tooled)
            answer, calls, results = None, (), []
    if answer is not None or results:
        yield _digest_turn(answer, calls, results, None, tooled=tooled)


def parse_calls(raw: msgspec.Raw) -> Sequence[CallDigest]:
    """Digests of one answer's calls; empty if unreadable."""
    return [digest_call(id, function.name, function.arguments) for id, function in _decode_calls(raw)]


def fingerprint_from(text: str, raw: msgspec.Raw) -> AnswerFingerprint:
    """The fingerprint of an answer with this text and these calls."""
    for id, function in _decode_calls(raw):
        return AnswerFingerprint(
            text[:FINGERPRINT_CHARS_MAX_UNSTREAMED],
            id if isinstance(id, str) else "",
            call_fingerprint(function.name, function.arguments),
        )
    return AnswerFingerprint(text[:FINGERPRINT_CHARS_MAX_UNSTREAMED], "", "")


def _decode_calls(raw: msgspec.Raw) -> Sequence[tuple[Any, _RawFunction]]:
    """(id, function) of an answer's calls; empty if unreadable."""
    if raw is ABSENT or not memoryview(raw).nbytes:
        return ()
    try:
        calls = _CALLS_DECODER.decode(raw) or []
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ()
    return [(call.id, call.function) for call in calls if call.function is not None]


def digest_call(id: Any, name: Any, arguments: Any) -> CallDigest:
    """Digest one call by its tool and the value of its arguments."""
    tool, canonical = str(name), _canonical_arguments(arguments)
    return CallDigest(
        id=id if isinstance(id, str) else "",
        tool=tool[:64],
        exact_digest=hash((tool, canonical)),
        shape_digest=hash((tool, canonical.translate(_DIGITS))),
    )


def _digest_turn(
    answer: Message | None,
    calls: Sequence[CallDigest],
    results: Sequence[Message],
    reply: Message | None,
    *,
    tooled: bool,
) -> TurnDigest:
    user_digest, user_digest_exact, user_signature, user_chars, holds_refusal = None, 0, 0, 0, False
    if reply is not None:
        text = message_text(reply)
        user_digest, user_digest_exact, user_signature, user_chars = (
            user_text_digest(text),
            hash(text),
            word_signature(text),
            len(text),
        )
        holds_refusal = STOP_MESSAGE_PREFIX in text
    steps = [_digest_step(call, results[index]) for index, call in _pair_results(calls, results)]
    text = message_text(answer) if answer is not None else ""
    has_calls = bool(steps or calls)
    if has_calls:
        words_digest = hash(text.translate(_DIGITS)) if len(text) >= _WORDS_CHARS_MIN else 0
    else:
        action = _fenced_action(text) if not tooled and answer is not None else ""
        if action and reply is not None:
            return TurnDigest(
                steps=[_digest_step(digest_call("", "", action), reply)], words_digest=hash(text.translate(_DIGITS))
            )
        words_digest = hash(text)
    return TurnDigest(
        steps=steps,
        words_digest=words_digest,
        agent_signature=0 if has_calls else word_signature(text),
        user_digest=user_digest,
        user_digest_exact=user_digest_exact,
        user_signature=user_signature,
        user_chars=user_chars,
        holds_refusal=holds_refusal,
        has_answer=has_calls or answer is not None,
    )


def _pair_results(calls: Sequence[CallDigest], results: Sequence[Message]) -> Iterator[tuple[int, CallDigest]]:
    """(index of a result, its call), matched by a unique id, else by position."""
    ids = [call.id for call in calls]
    for index, result in enumerate(results):
        call_id = result.tool_call_id
        if call_id and ids.count(call_id) == 1:
            yield index, calls[ids.index(call_id)]
        elif index < len(calls):
            yield index, calls[index]


def _digest_step(call: CallDigest, result: Message) -> StepDigest:
    text = message_text(result)
    if _REMINDER_TAG in text:
        # Reminders that a client adds to every result (tokens left) are not part of it.
        text = _REMINDERS.sub("", text)
    return StepDigest(
        tool=call.tool,
        call_digest=call.exact_digest,
        shape_digest=call.shape_digest,
        result_digest=_stable_digest(text),
        failed=result.is_error is True or _reports_failure(text),
    )


def _stable_digest(text: str) -> int:
    """Digest of a result without its volatile parts: times, durations, ids."""
    if len(text) <= _HEAD_CHARS + _TAIL_CHARS:
        return hash(_mask_volatile(text))
    return hash(
        (_mask_volatile(text[:_HEAD_CHARS]), text[_HEAD_CHARS:-_TAIL_CHARS], _mask_volatile(text[-_TAIL_CHARS:]))
    )


def _mask_volatile(text: str) -> str:
    return _VOLATILE.sub(_mask_match, _NAMED_NUMBER.sub(r"\1#", text))


def _mask_match(match: re.Match[str]) -> str:
    word = match[0]
    return "#" if (word[0].isdigit() and len(word) < 8) or _IDENTIFIER.match(word) else word


def _reports_failure(text: str) -> bool:
    head = text[:_FAILURE_CHARS].lower()
    for word in _FAILURE_WORDS:
        if word in head:
            # The word alone is no failure: `"error": null`, `0 errors`.
            head = _NO_FAILURE.sub("", head)
            if any(failure in head for failure in _FAILURE_WORDS):
                return True
            break
    return ("exit" in head or "returncode" in head) and _EXIT_CODE.search(head) is not None


def _fenced_action(text: str) -> str:
    """The action of a text agent: its last fenced block, "" if there is none."""
    parts = text.rsplit(_FENCE, 2)
    return parts[1].strip() if len(parts) == 3 else ""


def user_text_digest(text: str) -> int:
    """Digest of a user's text with its digits masked."""
    return hash(text.translate(_DIGITS))


def word_signature(text: str) -> int:
    """Bitmap of a turn's first words, 256 bits; 0 for too few words.

    Near duplicates share most bits.
    """
    words = text[:_SIGNATURE_CHARS].lower().split()
    if len(words) < _SIGNATURE_WORDS_MIN:
        return 0
    signature = 0
    for word in words:
        signature |= 1 << (hash(word) & _SIGNATURE_BIT_MASK)
    return signature


def message_text(message: Message) -> str:
    """The text of a message."""
    content = message.content
    if isinstance(content, list):
        return "\n".join([_part_text(part) for part in content if isinstance(part, dict)])
    return content or ""


def message_ends(message: Message) -> str:
    """Head and tail of a message, enough to separate equal lengths."""
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
    """The text of a part; for images and files enough to identify them."""
    text = part.get("text")
    if isinstance(text, str):
        return text
    image = part.get("image_url")
    if "media_bytes" in part:
        content = repr(part)
    elif isinstance(image, dict):
        content = str(next(iter(image.values()), ""))
    else:
        content = repr(sorted(part))
    return f"{len(content)}:{content[-64:]}"


def _canonical_arguments(arguments: Any) -> str:
    """Arguments as text independent of key order and spacing; non-JSON unchanged."""
    if not isinstance(arguments, str):
        return json.dumps(arguments, sort_keys=True, default=str)
    if len(arguments) > _CANONICAL_CHARS:
        return arguments
    try:
        return orjson.dumps(orjson.loads(arguments), option=orjson.OPT_SORT_KEYS).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return arguments
