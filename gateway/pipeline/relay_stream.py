"""Relays one streamed answer to the caller, chunk by chunk.

What comes before the answer itself (comments, pings, a role, `message_start`) is held back for at most
OPENING_SECONDS_MAX: until then a failure is a failed attempt, which another deployment may serve.
"""

from collections.abc import Callable, Mapping

from ..accounting import token_estimate
from ..dialects.sse import StreamMeter
from ..dialects.translation import TranslatedStream
from ..routing.circuit_breaker import CircuitBreakers
from ..values.errors import BrokenResponse, UnreadableResponse, UpstreamError
from .context import AttemptProgress, StreamHold
from .ports import Clock, ResponseWriter, UpstreamResponse

# Well above any real answer (128k tokens are under 1 MB, pictures 10-30 MB): a limit against runaway providers.
ANSWER_BYTES_MAX = 64 * 1024 * 1024
# How long, and how much of, the opening of an answer is held back.
OPENING_SECONDS_MAX = 2.0
_OPENING_BYTES_MAX = 64 * 1024
# How long an end mark is waited for after the last event; it is usually in the same read.
_END_MARK_SECONDS_MAX = 0.1
# Exceptions that reading a document of an unexpected shape may raise.
SHAPE_ERRORS = (AttributeError, TypeError, KeyError, ValueError, IndexError, RecursionError)


class StreamRelay:
    """One stream on its way to the caller.

    begun: whether the caller has received anything
    on_start: of a background response: called with its id, from which on it runs whatever becomes of its stream. Its
        opening is not held back: another deployment would run it again
    """

    __slots__ = (
        "_bytes_received", "_circuit_breakers", "_clock", "_headers", "_meter", "_opening", "_opening_bytes",
        "_opening_until", "_progress", "_response", "_translation", "_writer", "begun", "on_start",
    )  # fmt: skip

    def __init__(
        self,
        progress: AttemptProgress,
        meter: StreamMeter,
        translation: TranslatedStream | None,
        response: UpstreamResponse,
        headers: Mapping[str, str],
        writer: ResponseWriter,
        *,
        clock: Clock,
        circuit_breakers: CircuitBreakers,
    ) -> None:
        self._progress = progress
        self._meter = meter
        self._translation = translation
        self._response = response
        self._headers = headers
        self._writer = writer
        self._clock = clock
        self._circuit_breakers = circuit_breakers
        self._bytes_received = 0
        self._opening: list[bytes] = []
        self._opening_bytes = 0
        self._opening_until: float | None = None
        self.begun = False
        self.on_start: Callable[[str], None] | None = None

    async def run(self, input_tokens: int) -> bool:
        """Relay until the answer or its hold ends; True where the hold ended it. No retry after `begun`.

        Awaiting the caller's socket is the backpressure. Raises UpstreamError, CallerDisconnected.
        """
        meter, stream_hold = self._meter, self._progress.stream_hold
        while True:
            data = await self._next_chunk()
            if data is not None:
                if not data:
                    return False
                await self._forward(data)
            else:
                await self._begin()
            if meter.error is not None and (self._translation is not None or not self.begun):
                # Nothing of the answer has been sent, or its stream ends with our own error event.
                return False
            if (
                stream_hold is not None
                and self._bytes_received >= stream_hold.check_at_bytes
                and self.begun
                and not meter.done
                and not stream_hold.suffices(meter.estimated_text_totals(), self._bytes_received, len(data or b""))
                and not await _hold_covers(stream_hold, meter)
            ):
                await self._end_at_hold(input_tokens)
                return True
            if meter.done:
                # The caller has the complete answer and may hang up: no `await` until the attempt is settled.
                return False

    async def finish(self) -> None:
        """Send what is left of a complete answer. Raises BrokenResponse for one that is not."""
        rest = self._meter.finish()
        if not self.begun and not self._meter.answer_begun and not self._meter.is_complete and not self._meter.error:
            # What servers send whose model died before its first token: an end, with or without its mark.
            self._meter.error = {"message": "Provider stream ended without an answer."}
        if self._meter.error is not None and (self._translation is not None or not self.begun):
            return
        if self._translation is not None:
            rest = translated_block(self._translation, rest, end=self._meter.is_complete)
        if not self._meter.is_complete and self._meter.error is None:
            raise BrokenResponse("Provider stream ended before the response was complete.")
        if not self.begun:
            await self._begin()
        if rest:
            await self._writer.write(rest)

    async def forward_end_mark(self) -> None:
        """Send what follows the last event of an answer in the same dialect: an end mark that is not part of it."""
        if not self._meter.done or self._meter.end_mark_seen or self._translation is not None:
            return
        try:
            data = await self._response.read_chunk_within(_END_MARK_SECONDS_MAX)
        except UpstreamError:
            # The answer is complete.
            return
        rest = self._meter.feed(data) if data else b""
        if rest:
            await self._writer.write(rest)

    async def _next_chunk(self) -> bytes | None:
        """The next bytes, b"" at the end; None if none came while the opening was held back."""
        if self._opening_until is None or self.begun:
            return await self._response.read_chunk()
        within = self._opening_until - self._clock.monotonic()
        return await self._response.read_chunk_within(within) if within > 0 else None

    async def _forward(self, data: bytes) -> None:
        self._bytes_received += len(data)
        if self._bytes_received > ANSWER_BYTES_MAX:
            raise BrokenResponse(f"Provider response exceeds {ANSWER_BYTES_MAX // 1024**2} MiB.")
        out = self._meter.feed(data)
        runs_in_background = self.on_start is not None and bool(self._meter.id) and not self.begun
        if self._meter.error is not None and not self.begun and not (runs_in_background and not self._meter.done):
            return
        if self._translation is not None:
            out = translated_block(self._translation, out)
        if self.begun:
            if out:
                await self._writer.write(out)
            return
        self._hold_back(out)
        if runs_in_background and self.on_start is not None:
            self.on_start(self._meter.id)
        if self._meter.answer_begun or runs_in_background or self._opening_bytes > _OPENING_BYTES_MAX:
            await self._begin()

    def _hold_back(self, out: bytes) -> None:
        if self._opening_until is None:
            self._opening_until = self._clock.monotonic() + OPENING_SECONDS_MAX
        if out:
            self._opening.append(out)
            self._opening_bytes += len(out)

    async def _begin(self) -> None:
        """Send the status line and what was held back."""
        if self._meter.answer_begun:
            self._circuit_breakers.record_success(self._progress.attempt.deployment.name)
        opening = b"".join(self._opening)
        self._opening.clear()
        await self._writer.begin(self._response.status, self._headers)
        self.begun = self._progress.response_begun = True
        if opening:
            await self._writer.write(opening)

    async def _end_at_hold(self, input_tokens: int) -> None:
        """End a stream whose hold is exhausted, as if it had reached its output limit."""
        output_tokens = token_estimate.output_tokens(*self._meter.text_totals())
        rest = self._meter.end_early(input_tokens, output_tokens)
        if self._translation is not None:
            rest = translated_block(self._translation, rest, end=True)
        if rest:
            await self._writer.write(rest)


async def _hold_covers(hold: StreamHold, meter: StreamMeter) -> bool:
    """Whether a stream may continue; its output is counted to the byte only where the hold cannot grow."""
    if await hold.covers(token_estimate.output_tokens(*meter.estimated_text_totals())):
        return True
    return await hold.covers(token_estimate.output_tokens(*meter.text_totals()))


def translated_block(translation: TranslatedStream, block: bytes, *, end: bool = False) -> bytes:
    """A block of a stream in the caller's dialect. Raises UnreadableResponse."""
    try:
        return translation.feed(block) + (translation.finish() if end else b"")
    except SHAPE_ERRORS as error:
        raise UnreadableResponse("Provider stream does not match its dialect.") from error
