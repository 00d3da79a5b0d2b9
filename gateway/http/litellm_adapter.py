"""The lazy door to litellm: providers that speak neither OpenAI's dialects nor Anthropic's.

Whole calls in the shape of chat completions, keys with each call, nothing from the environment, nothing fetched. The
answer comes back as bytes of OpenAI's dialect, so that everything behind this door is metered like any other call.
Facts about litellm 1.105.3 that this file relies on are in docs/adr/0007.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson

from ..providers.litellm import ALLOWED_FIELDS
from ..providers.upstream_call import UpstreamCall
from ..values.catalog import Deployment, Timeouts
from ..values.errors import BrokenResponse, Unreachable, UnreadableResponse, UpstreamTimeout
from .ports import StartTask

# litellm fetches its price list and beta headers, and reads .env, unless it is told not to before it is imported.
_IMPORT_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_MODE": "PRODUCTION",
    "DISABLE_AIOHTTP_TRUST_ENV": "True",
    # For some models it would fetch a tokenizer to count with, and wait for it; providers count.
    "HF_HUB_OFFLINE": "1",
}
# Read by litellm at each call even where a key is given; none of them is a deployment's own.
_REMOVED_ENVIRONMENT = (
    "OPENAI_ORGANIZATION", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS", "AWS_BEARER_TOKEN_BEDROCK",
)  # fmt: skip
# Without a key litellm would take one from the environment and send it to whatever base URL the deployment has.
_PLACEHOLDER_KEY = "none"
_KEYLESS_PREFIXES = ("bedrock/", "vertex_ai/", "sagemaker/")
# Families whose streams litellm does not mark as complete.
_PREFIXES_WITHOUT_FINISH_REASON = ("gemini/", "vertex_ai/")
# Chunks that wait for a caller who reads slowly.
_CHUNKS_MAX = 64
_DELTA_FIELDS = ("role", "content", "refusal", "reasoning_content", "thinking_blocks", "tool_calls")
# How a failure without an answer looks by litellm's own status codes.
_TIMEOUT_STATUS = 408
# What litellm says of some answers that it cannot read.
_UNREADABLE_STATUS = 422
_MESSAGE_CHARS_MAX = 500
# Names that the HTTP libraries beneath litellm give to a connection that was never made.
_CONNECT_ERROR_NAMES = ("ConnectError", "ConnectTimeout", "ClientConnectorError", "ClientConnectorDNSError", "gaierror")
_CAUSES_MAX = 16


class LitellmResponse:
    """An answer that has begun: a whole one, or the bytes of a stream of events."""

    def __init__(
        self, status: int, headers: Mapping[str, str], chunks: AsyncIterator[bytes], timeouts: Timeouts
    ) -> None:
        self.status = status
        self.headers = headers
        self._chunks = chunks
        self._timeouts = timeouts
        self._deadline = asyncio.get_running_loop().time() + timeouts.total

    async def read_chunk(self) -> bytes:
        """The next bytes, b"" at the end. Raises UpstreamTimeout or BrokenAnswer."""
        try:
            left = self._deadline - asyncio.get_running_loop().time()
            async with asyncio.timeout(min(self._timeouts.idle, left)):
                return await anext(self._chunks, b"")
        except TimeoutError as error:
            raise UpstreamTimeout("The provider stayed silent longer than the deployment's timeout.") from error

    async def read(self, limit: int) -> bytes:
        """The whole answer, at most `limit` bytes. Raises UpstreamTimeout or BrokenAnswer."""
        parts, size = [], 0
        while data := await self.read_chunk():
            size += len(data)
            if size > limit:
                raise BrokenResponse("The provider's answer is larger than any answer.")
            parts.append(data)
        return b"".join(parts)

    def close(self) -> None:
        """End a stream that was not read to its end; its connection closes when its reader is cancelled."""
        closing = getattr(self._chunks, "cancel", None)
        if closing is not None:
            closing()


class LitellmUpstream:
    """Imports litellm at the first call (4 s, 180 MB), in a thread; `warm` does so at start."""

    def __init__(self, start: StartTask) -> None:
        self._start = start
        self._litellm: Any = None
        self._import_lock = asyncio.Lock()

    async def preload(self) -> None:
        """Have litellm imported. Raises Unreachable where it is not installed."""
        async with self._import_lock:
            if self._litellm is None:
                self._litellm = await asyncio.to_thread(_import_litellm)

    async def dial(self, call: UpstreamCall) -> LitellmResponse:
        """Make the call. Raises Unreachable, UpstreamTimeout or BrokenAnswer."""
        await self.preload()
        deployment = call.deployment
        known = ALLOWED_FIELDS[call.upstream_dialect]
        body = orjson.loads(b"".join(call.body))
        asked = {**{name: body[name] for name in body if name in known}, **_call_arguments(deployment)}
        function = self._litellm.aembedding if call.upstream_dialect == "embeddings" else self._litellm.acompletion
        if call.upstream_dialect == "chat":
            asked["_skip_mcp_handler"] = True
        try:
            async with asyncio.timeout(deployment.timeouts.first_byte):
                answer = await function(**asked)
        except TimeoutError as error:
            raise UpstreamTimeout(f"No answer from '{deployment.name}' within its first-byte timeout.") from error
        except self._error_types() as error:
            return self._error_response(error, deployment)
        headers = {"Content-Type": "application/json"}
        if asked.get("stream"):
            chunks = _LitellmStream(
                self._start, answer, unmarked=deployment.model.startswith(_PREFIXES_WITHOUT_FINISH_REASON)
            )
            return LitellmResponse(200, {"Content-Type": "text/event-stream"}, chunks, deployment.timeouts)
        return LitellmResponse(200, headers, _single_chunk(_response_body(answer)), deployment.timeouts)

    async def close(self) -> None:
        """Close litellm's own connections; nothing can be called afterwards."""
        if self._litellm is not None:
            await self._litellm.close_litellm_async_clients()

    def _error_types(self) -> tuple[type[Exception], ...]:
        """All of litellm's errors derive from those of the openai package."""
        base: type[Exception] = self._litellm.exceptions.openai.OpenAIError
        return base, ValueError, TypeError

    def _error_response(self, error: Exception, deployment: Deployment) -> LitellmResponse:
        """An answer with an error status; raises where no answer came at all."""
        headers = getattr(error, "litellm_response_headers", None)
        status = getattr(error, "status_code", None) or 400
        if headers is None and status == _TIMEOUT_STATUS:
            raise UpstreamTimeout(f"No answer from '{deployment.name}' in time.") from error
        if headers is None and status >= 500 and _never_sent(error):
            raise Unreachable(f"No connection to the provider of '{deployment.name}'.") from error
        if headers is None and status >= 500:
            raise UnreadableResponse("litellm could not make this call, or not read its answer.") from error
        if status == _UNREADABLE_STATUS and "valid response" in str(error):
            raise UnreadableResponse("The provider's answer does not have the shape of its API.") from error
        told = {"Content-Type": "application/json"}
        if headers is not None and headers.get("retry-after"):
            told["Retry-After"] = headers["retry-after"]
        body = orjson.dumps(
            {"error": {"message": _error_message(error), "type": "provider_error", "param": None, "code": None}}
        )
        return LitellmResponse(int(status), told, _single_chunk(body), deployment.timeouts)


class _LitellmStream(AsyncIterator[bytes]):
    """Reads litellm's stream in a task of its own: cancelling that task is what closes the connection surely."""

    def __init__(self, start: StartTask, answer: Any, *, unmarked: bool) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(_CHUNKS_MAX)
        self._answer = answer
        self._lacks_finish_reason = unmarked
        self._error: Exception | None = None
        self.cancel = start("litellm-stream", self._read(), self._store_error)

    def __aiter__(self) -> "_LitellmStream":
        return self

    async def __anext__(self) -> bytes:
        # An empty piece ends the stream, or wakes us to an error.
        found = await self._queue.get() if self._error is None or not self._queue.empty() else b""
        if found:
            return found
        if self._error is not None:
            if isinstance(self._error, BrokenResponse):
                raise self._error
            kind = type(self._error).__name__
            raise BrokenResponse(f"The provider broke off its answer ({kind}).") from self._error
        raise StopAsyncIteration

    def _store_error(self, error: Exception) -> None:
        """Whatever litellm raises within a stream is the provider's failure; what came before it is delivered first."""
        self._error = error
        if self._queue.empty():
            self._queue.put_nowait(b"")

    async def _read(self) -> None:
        last: list[bytes] = []
        # Whoever stops reading must close what litellm holds open, the innermost last.
        inner = getattr(self._answer, "completion_stream", None)
        try:
            async for chunk in self._answer:
                event, ends = _sse_event(chunk)
                if ends or last:
                    last.append(event)
                else:
                    await self._queue.put(event)
        finally:
            for one in (self._answer, inner, getattr(inner, "streaming_response", None)):
                close = getattr(one, "aclose", None)
                if close is not None:
                    await close()
        # A connection that ends early looks complete to litellm, with a reason of its own making: only its mark tells.
        if self._answer.received_finish_reason is None and not self._lacks_finish_reason:
            raise BrokenResponse("The provider ended the stream before the answer was complete.")
        await self._queue.put(b"".join([*last, b"data: [DONE]\n\n"]))
        await self._queue.put(b"")


def _import_litellm() -> Any:
    os.environ.update(_IMPORT_ENVIRONMENT)
    for name in _REMOVED_ENVIRONMENT:
        os.environ.pop(name, None)
    try:
        # Lazy door: see the top of this file.
        import litellm  # noqa: PLC0415
    except ImportError as error:
        raise Unreachable("litellm is not installed here; this deployment needs it.") from error
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.disable_hf_tokenizer_download = True
    return litellm


def _call_arguments(deployment: Deployment) -> dict[str, Any]:
    """What a call needs beyond its body; no retries, for those are ours."""
    keywords: dict[str, Any] = {
        **deployment.litellm_options,
        "model": deployment.model,
        "num_retries": 0,
        "max_retries": 0,
    }
    keywords["timeout"] = deployment.timeouts.total
    if deployment.base_url:
        keywords["api_base"] = deployment.base_url
    if deployment.secret is not None:
        keywords["api_key"] = deployment.secret
    elif not deployment.model.startswith(_KEYLESS_PREFIXES):
        keywords["api_key"] = _PLACEHOLDER_KEY
    return keywords


def _response_body(answer: Any) -> bytes:
    document = answer.model_dump(exclude_none=True)
    for choice in document.get("choices") or ():
        for call in (choice.get("message") or {}).get("tool_calls") or ():
            # litellm's index of a content block; whole answers of chat completions have none.
            call.pop("index", None)
    return orjson.dumps(document, default=str)


def _sse_event(chunk: Any) -> tuple[bytes, bool]:
    """One chunk as OpenAI would send it, for litellm's own has nulls and names of its own; and whether it says why the
    answer ended."""
    document = chunk.model_dump(exclude_none=True)
    choices = []
    for choice in document.get("choices") or ():
        delta = choice.get("delta") or {}
        kept = {name: delta[name] for name in _DELTA_FIELDS if delta.get(name) is not None}
        choices.append({"index": choice.get("index", 0), "delta": kept, "finish_reason": choice.get("finish_reason")})
    usage = document.get("usage")
    if usage is not None:
        usage.pop("cost", None)
        choices = [choice for choice in choices if choice["delta"] or choice["finish_reason"]]
    event = {
        "id": document.get("id"), "object": "chat.completion.chunk", "created": document.get("created"),
        "model": document.get("model"), "choices": choices,
    }  # fmt: skip
    if usage is not None:
        event["usage"] = usage
    ends = any(choice["finish_reason"] for choice in choices)
    return b"data: " + orjson.dumps(event, default=str) + b"\n\n", ends


async def _single_chunk(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _never_sent(error: BaseException | None) -> bool:
    """Whether a failed connection stands among the causes: then nothing was spent."""
    seen = 0
    while error is not None and seen < _CAUSES_MAX:
        if isinstance(error, ConnectionRefusedError) or type(error).__name__ in _CONNECT_ERROR_NAMES:
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


def _error_message(error: Exception) -> str:
    """The provider's own words: what its JSON says, else litellm's sentence without its prefixes."""
    text = str(getattr(error, "message", "") or error)
    try:
        document = orjson.loads(text[text.index("{") : text.rindex("}") + 1])
        said = document["error"]["message"] if isinstance(document.get("error"), dict) else document["message"]
        return str(said)
    except (ValueError, KeyError, TypeError, AttributeError):
        plain = text.partition("Exception - ")[2] or text
        return re.sub(r"^(?:litellm\.)?\w+(?:Error|Exception): ", "", plain)[:_MESSAGE_CHARS_MAX]
