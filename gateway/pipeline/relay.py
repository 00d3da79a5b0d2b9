"""One provider's answer on its way to the caller: whole, streamed, rejected or broken, in the caller's dialect.

The meter reads what the provider sends, in the dialect that it speaks; where that is not the caller's, what the meter
lets through is crossed back before it is sent.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from ..accounting import token_estimate
from ..dialects import DIALECTS, answer_fingerprint, passthrough
from ..dialects.parsed_answer import said
from ..dialects.sse import Meter
from ..dialects.translation import CrossedStream, speech_of
from ..dialects.translation.translated import Back, Carried
from ..providers import PROVIDERS
from ..providers.upstream_call import Failure
from ..routing.circuit_breaker import HealthBook
from ..values.base import Value
from ..values.caller_response import Answer
from ..values.errors import (
    BrokenAnswer,
    NotCarriable,
    PenstockError,
    Unreachable,
    UnreadableAnswer,
    UpstreamError,
    UpstreamTimeout,
)
from . import headers as response_headers
from .context import Decided, Progress
from .ports import Answering, Reply

# More than any answer of the field (a 128k-token answer is under 1 MB); past it the provider is flooding us.
ANSWER_BYTES_MAX = 64 * 1024 * 1024
# Files that pass through may be larger than any answer (OpenAI's upload limit is 512 MB).
_FILE_BYTES_MAX = 1024 * 1024 * 1024
# Of a provider's error body; enough for its message.
_ERROR_BYTES_MAX = 256 * 1024
# What reading a document of the wrong shape may raise.
_MISSHAPEN = (AttributeError, TypeError, KeyError, ValueError, IndexError, RecursionError)
# Of a provider's words within an error of ours.
_WORDS_MAX = 2000
# How a server says that a path does not exist there.
_NO_SUCH_PATH = (404, 405, 501)


class Failed(Value, frozen=True, kw_only=True):
    """An attempt that did not serve: what to tell the caller if it was the last, and what may be tried.

    `speech`: the same deployment should be spoken to in this dialect instead, at once.
    """

    answer: Answer
    retry_same: bool
    try_other: bool
    retry_after: float | None
    speech: str | None = None


class Relay:
    """Brings answers back. Knows the book of health, for an answer tells how its deployment stands."""

    def __init__(self, health: HealthBook) -> None:
        self._health = health

    async def answered(
        self, decided: Decided, progress: Progress, answering: Answering, reply: Reply, *, now: float
    ) -> Answer | Failed:
        """The provider's status line is here."""
        request, attempt = decided.request, progress.attempt
        provider = PROVIDERS[attempt.deployment.dialect]
        if not 200 <= answering.status < 300:
            return await self._rejected(decided, progress, answering, now=now)
        headers = provider.returned(answering.headers)
        kind = answering.headers.get("Content-Type", "")
        if request.stream and "event-stream" in kind:
            return await self._stream(decided, progress, answering, headers, reply)
        if request.passage is not None and kind.partition(";")[0].strip().lower() != "application/json":
            return await self._file(decided, progress, answering, headers, reply)
        body = await answering.read(ANSWER_BYTES_MAX)
        progress.answered, progress.text_bytes = True, len(body)
        document = _object(body)
        if document is None and request.passage is None:
            raise BrokenAnswer("The provider's answer is not JSON.")
        document = document or {}
        usage = progress.usage = provider.usage_of(document.get("usage"))
        progress.text_bytes = _weight(attempt.speech, document, body) if usage is None else 0
        progress.answer_id = str(document.get("id") or "")
        progress.heard = answer_fingerprint.beginning(document) if decided.tip else progress.heard
        progress.calls = answer_fingerprint.calls(document) if attempt.speech == "responses" else ()
        if progress.verified:
            progress.said = said(document)
        if request.passage is not None:
            progress.pieces = passthrough.pieces_of(document)
        carried = carried_of(decided, progress)
        if carried is not None and request.stream:
            raise BrokenAnswer("The provider did not stream its answer.")
        if carried is not None:
            headers["content-type"] = "application/json"
            back = progress.back = _back(decided, progress, carried)
            body = _crossed(back, document)
        self._completed(progress, answering.status)
        return Answer(status=answering.status, headers=headers, body=body)

    async def _stream(
        self, decided: Decided, progress: Progress, answering: Answering, headers: Mapping[str, str], reply: Reply
    ) -> Answer:
        """Forward chunk by chunk; backpressure is the await on the caller's socket. No second attempt after `begin`."""
        headers = {**headers, **response_headers.of_attempt(decided, progress)}
        meter = progress.stream = DIALECTS[progress.attempt.speech].meter(decided.request)
        crossed = self._crossed_stream(decided, progress)
        if crossed is not None:
            headers["content-type"] = "text/event-stream; charset=utf-8"
        begun, received, watch = False, 0, progress.watch
        meter.watched = watch is not None
        if decided.tip and progress.attempt.speech != "responses":
            meter.listening = (
                answer_fingerprint.HEARD_CHARS if decided.session.alike else answer_fingerprint.KNOWN_CHARS
            )
        while data := await answering.chunk():
            received += len(data)
            if received > ANSWER_BYTES_MAX:
                raise BrokenAnswer("The provider's answer is longer than any answer.")
            out = meter.feed(data)
            if meter.error is not None and not begun and not meter.text()[0]:
                # Nothing was said yet: another deployment may do better.
                break
            if crossed is not None:
                out = _fed(crossed, out)
            if out:
                if not begun:
                    self._health.succeeded(progress.attempt.deployment.name)
                    await reply.begin(answering.status, headers)
                    begun = progress.answered = True
                await reply.write(out)
            if watch is not None and begun and not meter.done:
                seen = token_estimate.output_tokens(*meter.text())
                if not await watch.covers(seen):
                    return await self._shortened(decided, progress, meter, crossed, seen, reply)
            if meter.done or (crossed is not None and meter.error is not None):
                # The caller has its end and may hang up now: nothing may be awaited any more before this is settled.
                break
        rest = meter.finish()
        if meter.error is not None and (crossed is not None or not begun):
            # A crossed stream ends in an event of our own.
            raise BrokenAnswer(f"The provider ended its answer with an error: {_words(meter.error)}")
        if crossed is not None:
            rest = _fed(crossed, rest, end=meter.ended)
        if not meter.ended and meter.error is None:
            raise BrokenAnswer("The provider ended the stream before the answer was complete.")
        if not begun:
            await reply.begin(answering.status, headers)
            progress.answered = True
        if rest:
            await reply.write(rest)
        self._completed(progress, answering.status)
        progress.answer_id, progress.heard, progress.calls = meter.id, meter.heard, meter.calls
        if meter.error is not None:
            progress.outcome, progress.code = "cut", "upstream_error"
        return Answer(status=answering.status, headers=headers, streamed=True)

    async def _shortened(
        self, decided: Decided, progress: Progress, meter: Meter, crossed: CrossedStream | None, seen: int, reply: Reply
    ) -> Answer:
        """End a stream that no budget lets go on, as though its output limit had been reached."""
        rest = meter.ending(decided.facts.input_tokens, seen)
        if crossed is not None:
            rest = _fed(crossed, rest, end=True)
        if rest:
            await reply.write(rest)
        self._completed(progress, 200)
        progress.code = "hold_used_up"
        return Answer(status=200, headers={}, streamed=True)

    async def _file(
        self, decided: Decided, progress: Progress, answering: Answering, headers: Mapping[str, str], reply: Reply
    ) -> Answer:
        """Something that is no JSON passes through as it comes: sound, pictures, files."""
        headers = {**headers, **response_headers.of_attempt(decided, progress)}
        progress.stream = passthrough.PassageStream()
        received = 0
        await reply.begin(answering.status, headers)
        progress.answered = True
        while data := await answering.chunk():
            received += len(data)
            if received > _FILE_BYTES_MAX:
                raise BrokenAnswer("The provider's file is larger than what passes through here.")
            await reply.write(data)
        self._completed(progress, answering.status)
        return Answer(status=answering.status, headers=headers, streamed=True)

    def _crossed_stream(self, decided: Decided, progress: Progress) -> CrossedStream | None:
        carried = carried_of(decided, progress)
        if carried is None:
            return None
        back = progress.back = _back(decided, progress, carried)
        return CrossedStream(back, chat=decided.request.dialect == "chat")

    async def _rejected(
        self, decided: Decided, progress: Progress, answering: Answering, *, now: float
    ) -> Answer | Failed:
        """The provider answered with an error status; none of them charges for that."""
        deployment = progress.attempt.deployment
        provider = PROVIDERS[deployment.dialect]
        progress.refused = True
        body = await _start_of(answering, _ERROR_BYTES_MAX)
        failure = provider.failure_of(answering.status, body)
        passed = not failure.retry_same and not failure.try_other
        progress.outcome = "rejected" if passed else "upstream_error"
        progress.status, progress.code = answering.status, failure.code
        retry_after = _pause(answering.headers)
        speech = self._other_speech(decided, progress, answering.status, body)
        self._stands(progress, failure, answering.status, retry_after, now=now)
        answer = _told(decided, progress, failure, answering, body)
        progress.status = answer.status
        if speech is not None:
            progress.outcome, progress.code = "upstream_error", "dialect_not_spoken"
        elif passed:
            return answer
        return Failed(
            answer=answer,
            retry_same=failure.retry_same,
            try_other=failure.try_other,
            retry_after=retry_after,
            speech=speech,
        )

    def _stands(
        self, progress: Progress, failure: Failure, status: int, retry_after: float | None, *, now: float
    ) -> None:
        """What an error status says of its deployment."""
        name, probe = progress.attempt.deployment.name, progress.probe
        if status == 429 and failure.retry_same:
            if probe:
                self._health.released(name, now=now)
            self._health.limited(name, now=now, retry_after=retry_after)
        elif failure.retry_same:
            self._health.failed(name, now=now)
        elif not failure.try_other:
            self._health.succeeded(name)
        elif probe:
            self._health.released(name, now=now)

    def _other_speech(self, decided: Decided, progress: Progress, status: int, body: bytes) -> str | None:
        """The dialect to go on in, where the server turns out not to have the path of the one that was tried."""
        deployment, speech = progress.attempt.deployment, progress.attempt.speech
        if speech not in deployment.learnt or status not in _NO_SUCH_PATH or b"model_not_found" in body:
            return None
        other = speech_of(decided.request.dialect, [one for one in deployment.speaks if one != speech])
        if other is None or isinstance(decided.carrier.to(other, extended=False), NotCarriable):
            return None
        return other

    async def broken(
        self, decided: Decided, progress: Progress, error: UpstreamError, reply: Reply, *, now: float
    ) -> Answer | Failed:
        """No usable answer. Before the first byte another attempt may follow; after it, the stream ends with an error."""
        begun = progress.stream is not None and progress.answered
        progress.outcome = "cut" if begun else "upstream_error"
        progress.status, progress.code = error.status, error.code
        if isinstance(error, Unreachable):
            progress.dialled = False
        if not isinstance(error, UnreadableAnswer):
            self._health.failed(progress.attempt.deployment.name, now=now)
        dialect = DIALECTS[decided.request.dialect]
        if begun:
            await reply.write(dialect.error_event(error))
            return Answer(status=200, headers={}, streamed=True)
        same = error.retryable and not isinstance(error, UpstreamTimeout)
        return Failed(answer=dialect.failed(error), retry_same=same, try_other=True, retry_after=None)

    def _completed(self, progress: Progress, status: int) -> None:
        progress.outcome, progress.status, progress.code = "completed", status, ""
        name, speech = progress.attempt.deployment.name, progress.attempt.speech
        self._health.succeeded(name)
        if progress.not_spoken:
            self._health.lacks(name, progress.not_spoken, now=progress.first_byte or 0.0)
        elif speech in progress.attempt.deployment.learnt:
            self._health.spoke(name, speech)


def carried_of(decided: Decided, progress: Progress) -> Carried | None:
    """What was sent instead of the caller's own words; None where these were sent."""
    attempt = progress.attempt
    if attempt.speech == decided.request.dialect:
        return None
    carried = decided.carrier.to(attempt.speech, extended=attempt.deployment.dialect == "litellm")
    assert isinstance(carried, Carried), "what cannot be carried was struck"
    return carried


def _back(decided: Decided, progress: Progress, carried: Carried) -> Back:
    return decided.carrier.back(
        carried, progress.attempt.speech, answer_id=f"{decided.request_id}{progress.number}", created=int(decided.at)
    )


def _crossed(back: Back, document: dict[str, Any]) -> bytes:
    """The whole answer in the caller's dialect. Raises BrokenAnswer where the provider's has no such shape."""
    try:
        return orjson.dumps(back.whole(document))
    except _MISSHAPEN as error:
        raise UnreadableAnswer("The provider's answer does not have the shape of its dialect.") from error


def _weight(speech: str, document: dict[str, Any], body: bytes) -> int:
    """Bytes of text of an answer that nobody counted; all of it where its shape cannot be read."""
    try:
        return DIALECTS[speech].weight(document)
    except _MISSHAPEN:
        return len(body)


def _fed(crossed: CrossedStream, block: bytes, *, end: bool = False) -> bytes:
    """What a block, and the end, become in the caller's dialect. Raises UnreadableAnswer where it has no such shape."""
    try:
        return crossed.feed(block) + (crossed.finish() if end else b"")
    except _MISSHAPEN as error:
        raise UnreadableAnswer("The provider's stream does not have the shape of its dialect.") from error


def _told(decided: Decided, progress: Progress, failure: Failure, answering: Answering, body: bytes) -> Answer:
    """What the caller hears of a provider's error: its own bytes in the same dialect, else its words in the caller's."""
    provider, dialect = PROVIDERS[progress.attempt.deployment.dialect], DIALECTS[decided.request.dialect]
    if failure.hide:
        error: PenstockError = UpstreamError(
            f"The provider answered with status {answering.status}.", code=failure.code
        )
        return dialect.failed(error)
    headers = provider.returned(answering.headers)
    if progress.attempt.speech == decided.request.dialect:
        return Answer(status=answering.status, headers=headers, body=body)
    error = PenstockError(
        failure.message[:_WORDS_MAX] or f"The provider answered with status {answering.status}.", code=failure.code
    )
    error.status = answering.status
    answer = dialect.failed(error)
    if "retry-after" in headers:
        answer = Answer(
            status=answer.status, headers={"content-type": "application/json", "retry-after": headers["retry-after"]},
            body=answer.body,
        )  # fmt: skip
    return answer


async def _start_of(answering: Answering, limit: int) -> bytes:
    """The beginning of an error body; nobody needs the rest."""
    parts, size = [], 0
    while size < limit and (data := await answering.chunk()):
        parts.append(data)
        size += len(data)
    return b"".join(parts)


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _words(error: Any) -> str:
    """The provider's own words for what went wrong."""
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:500]


def _pause(headers: Mapping[str, str]) -> float | None:
    """The pause in seconds that a provider asks for: Retry-After-Ms, else Retry-After; dates and nonsense count as not
    given."""
    for name, unit in (("Retry-After-Ms", 0.001), ("Retry-After", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if 0 <= seconds < 86_400:
            return seconds
    return None
