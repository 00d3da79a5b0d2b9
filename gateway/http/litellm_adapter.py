"""Calls providers through litellm whose API is not OpenAI's or Anthropic's.

Calls have the shape of chat completions and carry their key; nothing is read from the environment or fetched. Responses
are returned as bytes of OpenAI's dialect, so that they are metered like any other call. litellm is imported lazily.
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
from .response_reader import ResponseReader

# Must be set before the import: litellm otherwise fetches its price list and beta headers, and reads .env.
_IMPORT_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_MODE": "PRODUCTION",
    "DISABLE_AIOHTTP_TRUST_ENV": "True",
    # For some models litellm would fetch a tokenizer to count tokens; providers report usage.
    "HF_HUB_OFFLINE": "1",
}
# Read by litellm at each call even if a key is passed; none of them belongs to a deployment.
_REMOVED_ENVIRONMENT = (
    "OPENAI_ORGANIZATION", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS", "AWS_BEARER_TOKEN_BEDROCK",
)  # fmt: skip
# Without a key litellm would take one from the environment and send it to whatever base URL the deployment has.
_PLACEHOLDER_KEY = "none"
_KEYLESS_PREFIXES = ("bedrock/", "vertex_ai/", "sagemaker/")
# Families whose streams litellm does not mark as complete.
_PREFIXES_WITHOUT_FINISH_REASON = ("gemini/", "vertex_ai/")
# Chunks buffered for a caller that reads slowly.
_CHUNKS_MAX = 64
_DELTA_FIELDS = ("role", "content", "refusal", "reasoning_content", "thinking_blocks", "tool_calls", "annotations")
# litellm's own status for a call without a response.
_TIMEOUT_STATUS = 408
# litellm's own status for some responses that it cannot parse.
_UNREADABLE_STATUS = 422
_MESSAGE_CHARS_MAX = 500
# Exceptions of litellm's HTTP libraries for a connection that was never made.
_CONNECT_ERROR_NAMES = ("ConnectError", "ConnectTimeout", "ClientConnectorError", "ClientConnectorDNSError", "gaierror")
_CAUSES_MAX = 16


class LitellmResponse(ResponseReader):
    """A response that has begun: a whole one, or a stream of events."""

    def __init__(
        self, status: int, headers: Mapping[str, str], chunks: AsyncIterator[bytes], timeouts: Timeouts
    ) -> None:
        self.status = status
        self.headers = headers
        self._chunks = chunks
        self._timeouts = timeouts
        self._deadline = asyncio.get_running_loop().time() + timeouts.total

    async def read_chunk(self) -> bytes:
        """Returns the next bytes, b"" at the end. Raises UpstreamError."""
        try:
            remaining = self._deadline - asyncio.get_running_loop().time()
            async with asyncio.timeout(min(self._timeouts.idle, remaining)):
                return await anext(self._chunks, b"")
        except TimeoutError as error:
            raise UpstreamTimeout(
                "Read timeout: the provider sent nothing for longer than the deployment allows."
            ) from error

    def close(self) -> None:
        """Cancels the reader of an unfinished stream, which closes its connection."""
        cancel = getattr(self._chunks, "cancel", None)
        if cancel is not None:
            cancel()


class LitellmUpstream:
    """Sends calls through litellm.

    Imports it (4 s, 180 MB) in a thread, at the first call or in `preload`.
    """

    def __init__(self, start: StartTask) -> None:
        self._start = start
        self._litellm: Any = None
        self._import_lock = asyncio.Lock()

    async def preload(self) -> None:
        """Imports litellm. Raises Unreachable if it is not installed."""
        async with self._import_lock:
            if self._litellm is None:
                self._litellm = await asyncio.to_thread(_import_litellm)

    async def dial(self, call: UpstreamCall) -> LitellmResponse:
        """Makes the call. Raises Unreachable, UpstreamTimeout or BrokenResponse."""
        await self.preload()
        deployment = call.deployment
        allowed = ALLOWED_FIELDS[call.upstream_dialect]
        body = orjson.loads(b"".join(call.body))
        arguments = {**{name: body[name] for name in body if name in allowed}, **_call_arguments(deployment)}
        function = self._litellm.aembedding if call.upstream_dialect == "embeddings" else self._litellm.acompletion
        if call.upstream_dialect == "chat":
            arguments["_skip_mcp_handler"] = True
        try:
            async with asyncio.timeout(deployment.timeouts.first_byte):
                response = await function(**arguments)
        except TimeoutError as error:
            raise UpstreamTimeout(f"First-byte timeout: no response from '{deployment.name}'.") from error
        except self._error_types() as error:
            return self._error_response(error, deployment)
        headers = {"Content-Type": "application/json"}
        if arguments.get("stream"):
            lacks_finish_reason = deployment.model.startswith(_PREFIXES_WITHOUT_FINISH_REASON)
            chunks = _LitellmStream(self._start, response, lacks_finish_reason=lacks_finish_reason)
            return LitellmResponse(200, {"Content-Type": "text/event-stream"}, chunks, deployment.timeouts)
        return LitellmResponse(200, headers, _single_chunk(_response_body(response)), deployment.timeouts)

    async def close(self) -> None:
        """Closes litellm's connections; no call is possible afterwards."""
        if self._litellm is not None:
            await self._litellm.close_litellm_async_clients()

    def _error_types(self) -> tuple[type[Exception], ...]:
        """Returns the exceptions of a failed call; litellm's derive from openai's."""
        base: type[Exception] = self._litellm.exceptions.openai.OpenAIError
        return base, ValueError, TypeError

    def _error_response(self, error: Exception, deployment: Deployment) -> LitellmResponse:
        """Returns the error response; raises UpstreamError if no response arrived."""
        headers = getattr(error, "litellm_response_headers", None)
        status = getattr(error, "status_code", None) or 400
        if headers is None and status == _TIMEOUT_STATUS:
            raise UpstreamTimeout(f"Timeout: no response from '{deployment.name}'.") from error
        if headers is None and status >= 500 and _never_sent(error):
            raise Unreachable(f"Connection failed: the provider of '{deployment.name}' is unreachable.") from error
        if headers is None and status >= 500:
            raise UnreadableResponse("litellm failed to make this call or to parse its response.") from error
        if status == _UNREADABLE_STATUS and "valid response" in str(error):
            raise UnreadableResponse("Invalid provider response: it does not match the provider's API.") from error
        response_headers = {"Content-Type": "application/json"}
        if headers is not None and headers.get("retry-after"):
            response_headers["Retry-After"] = headers["retry-after"]
        body = orjson.dumps(
            {"error": {"message": _error_message(error), "type": "provider_error", "param": None, "code": None}}
        )
        return LitellmResponse(int(status), response_headers, _single_chunk(body), deployment.timeouts)


class _LitellmStream(AsyncIterator[bytes]):
    """Reads litellm's stream in its own task.

    Cancelling the task reliably closes the connection.
    """

    def __init__(self, start: StartTask, response: Any, *, lacks_finish_reason: bool) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(_CHUNKS_MAX)
        self._response = response
        self._lacks_finish_reason = lacks_finish_reason
        self._error: Exception | None = None
        self.cancel = start("litellm-stream", self._read(), self._store_error)

    def __aiter__(self) -> "_LitellmStream":
        return self

    async def __anext__(self) -> bytes:
        # An empty chunk marks the end of the stream or an error.
        chunk = await self._queue.get() if self._error is None or not self._queue.empty() else b""
        if chunk:
            return chunk
        if self._error is not None:
            if isinstance(self._error, BrokenResponse):
                raise self._error
            kind = type(self._error).__name__
            raise BrokenResponse(f"The provider's stream failed ({kind}).") from self._error
        raise StopAsyncIteration

    def _store_error(self, error: Exception) -> None:
        """Stores an error of the stream; chunks before it are delivered first."""
        self._error = error
        if self._queue.empty():
            self._queue.put_nowait(b"")

    async def _read(self) -> None:
        last: list[bytes] = []
        # litellm does not close its nested streams itself; close them, the innermost last.
        inner = getattr(self._response, "completion_stream", None)
        try:
            async for chunk in self._response:
                event, ends = _sse_event(chunk)
                if ends or last:
                    last.append(event)
                else:
                    await self._queue.put(event)
        finally:
            for stream in (self._response, inner, getattr(inner, "streaming_response", None)):
                close = getattr(stream, "aclose", None)
                if close is not None:
                    await close()
        # If a connection ends early litellm invents a finish reason; only `received_finish_reason` reveals it.
        if self._response.received_finish_reason is None and not self._lacks_finish_reason:
            raise BrokenResponse("The provider closed the stream before the response was complete.")
        await self._queue.put(b"".join([*last, b"data: [DONE]\n\n"]))
        await self._queue.put(b"")


def _import_litellm() -> Any:
    os.environ.update(_IMPORT_ENVIRONMENT)
    for name in _REMOVED_ENVIRONMENT:
        os.environ.pop(name, None)
    try:
        # Lazy import: see the top of this file.
        import litellm  # noqa: PLC0415
    except ImportError as error:
        raise Unreachable("litellm is not installed; this deployment requires it.") from error
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.disable_hf_tokenizer_download = True
    return litellm


def _call_arguments(deployment: Deployment) -> dict[str, Any]:
    """Returns a call's arguments beyond its body; the pipeline does the retries."""
    arguments: dict[str, Any] = {
        **deployment.litellm_options,
        "model": deployment.model,
        "num_retries": 0,
        "max_retries": 0,
    }
    arguments["timeout"] = deployment.timeouts.total
    if deployment.base_url:
        arguments["api_base"] = deployment.base_url
    if deployment.secret is not None:
        arguments["api_key"] = deployment.secret
    elif not deployment.model.startswith(_KEYLESS_PREFIXES):
        arguments["api_key"] = _PLACEHOLDER_KEY
    return arguments


def _response_body(response: Any) -> bytes:
    document = response.model_dump(exclude_none=True)
    for choice in document.get("choices") or ():
        for call in (choice.get("message") or {}).get("tool_calls") or ():
            # litellm's index of a content block; chat completions that are not streamed have none.
            call.pop("index", None)
    return orjson.dumps(document, default=str)


def _sse_event(chunk: Any) -> tuple[bytes, bool]:
    """Returns a chunk as OpenAI would send it, and whether it has a finish reason."""
    document = chunk.model_dump(exclude_none=True)
    choices = []
    for choice in document.get("choices") or ():
        delta = choice.get("delta") or {}
        fields = {name: delta[name] for name in _DELTA_FIELDS if delta.get(name) is not None}
        choices.append({"index": choice.get("index", 0), "delta": fields, "finish_reason": choice.get("finish_reason")})
    usage = document.get("usage")
    if usage is not None:
        choices = [choice for choice in choices if choice["delta"] or choice["finish_reason"]]
    event = {
        "id": document.get("id"), "object": "chat.completion.chunk", "created": document.get("created"),
        "model": document.get("model"), "choices": choices,
    }  # fmt: skip
    if usage is not None:
        event["usage"] = usage
    if document.get("service_tier") is not None:
        event["service_tier"] = document["service_tier"]
    ends = any(choice["finish_reason"] for choice in choices)
    return b"data: " + orjson.dumps(event, default=str) + b"\n\n", ends


async def _single_chunk(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _never_sent(error: BaseException | None) -> bool:
    """Returns whether a failed connection is a cause: then nothing was spent."""
    depth = 0
    while error is not None and depth < _CAUSES_MAX:
        if isinstance(error, ConnectionRefusedError) or type(error).__name__ in _CONNECT_ERROR_NAMES:
            return True
        error, depth = error.__cause__ or error.__context__, depth + 1
    return False


def _error_message(error: Exception) -> str:
    """Returns the provider's message from its JSON, else litellm's without prefixes."""
    text = str(getattr(error, "message", "") or error)
    try:
        document = orjson.loads(text[text.index("{") : text.rindex("}") + 1])
        message = document["error"]["message"] if isinstance(document.get("error"), dict) else document["message"]
        return str(message)
    except (ValueError, KeyError, TypeError, AttributeError):
        plain = text.partition("Exception - ")[2] or text
        return re.sub(r"^(?:litellm\.)?\w+(?:Error|Exception): ", "", plain)[:_MESSAGE_CHARS_MAX]
