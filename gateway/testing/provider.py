"""A simulated provider that speaks chat completions: latency, token streaming, usage, prompt caching, and faults on order.

A request may carry a `sim` object, an unknown field that a gateway passes through unchanged:
`{"reply": message}` says what to answer, `{"output_tokens": n}` how much, `{"fault": name}` what should go wrong:
status:NNN, hang, hang_mid, cut, garbage, not_json, no_usage, flood, error_event. Run it with
`python -m gateway.testing.provider --model NAME:FIRST_TOKEN_S:TOKENS_PER_S ...`; it prints one base URL per model.
"""

import argparse
import asyncio
import itertools
import json
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

_WORDS = [
    "the",
    "agent",
    "reads",
    "the",
    "file,",
    "finds",
    "the",
    "cause,",
    "changes",
    "one",
    "line",
    "and",
    "runs",
    "the",
    "tests",
    "again",
    "until",
    "they",
    "pass.",
    "",
]
_CHARS_PER_TOKEN = 4
# However much usage is claimed, this is the longest text that is written.
_WORDS_MAX = 50_000
_FLOOD_BYTES = 200 * 1024 * 1024
_CACHE_BLOCK_TOKENS, _CACHE_MIN_TOKENS, _CACHE_ENTRIES = 128, 1024, 10_000
_BODY_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Personality:
    """How fast one model answers: seconds to the first token, tokens a second after it; zero seconds = at once."""

    model: str
    first_token: float = 0.0
    tokens_per_second: float = 0.0


class SimulatedProvider:
    """One model behind one port. `calls` are the bodies it received, newest last (bounded)."""

    def __init__(self, personality: Personality) -> None:
        self._personality = personality
        self._cache: OrderedDict[int, int] = OrderedDict()
        self._runner: web.AppRunner | None = None
        self._numbers = itertools.count(1)
        self.received: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.hung_up = 0
        self.keep = 1000

    async def start(self, port: int = 0) -> str:
        """Listen on loopback; gives the base URL."""
        app = web.Application(client_max_size=_BODY_BYTES_MAX)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port, backlog=1024).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if len(self.received) < self.keep:
            self.received.append(body)
            self.headers.append(dict(request.headers))
        asked = orjson.loads(body)
        sim = asked.get("sim") or {}
        try:
            return await self._answer(request, asked, sim, str(sim.get("fault") or ""))
        except (asyncio.CancelledError, ConnectionError):
            self.hung_up += 1
            raise

    async def _answer(
        self, request: web.Request, asked: dict[str, Any], sim: dict[str, Any], fault: str
    ) -> web.StreamResponse:
        if fault.startswith("status:"):
            return _error(int(fault.removeprefix("status:")))
        if asked["model"] != self._personality.model:
            return _error(404)
        if fault == "hang":
            await asyncio.sleep(3600)
        await asyncio.sleep(self._personality.first_token)
        if fault == "not_json":
            return web.Response(text="<html>bad gateway</html>", content_type="text/html")
        reply = _reply(asked, sim)
        usage = self._usage(asked, reply, sim)
        head = {"id": f"chatcmpl-sim{next(self._numbers)}", "created": int(time.time()), "model": asked["model"]}
        if asked.get("stream"):
            return await self._stream(request, asked, reply, usage, head, fault)
        if self._personality.tokens_per_second:
            await asyncio.sleep(usage["completion_tokens"] / self._personality.tokens_per_second)
        document: dict[str, Any] = {
            **head,
            "object": "chat.completion",
            "choices": [{"index": 0, "message": reply, "finish_reason": _finish(reply)}],
        }
        if fault != "no_usage":
            document["usage"] = usage
        if fault == "garbage":
            return web.Response(body=b"\xff\xfe{{{", content_type="application/json")
        return web.Response(
            body=orjson.dumps(document), content_type="application/json", headers={"x-request-id": head["id"]}
        )

    async def _stream(
        self,
        request: web.Request,
        asked: dict[str, Any],
        reply: dict[str, Any],
        usage: dict[str, Any],
        head: dict[str, Any],
        fault: str,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "x-request-id": head["id"]})
        await response.prepare(request)
        pace = 1 / self._personality.tokens_per_second if self._personality.tokens_per_second else 0.0
        head = {**head, "object": "chat.completion.chunk"}
        asks_usage = (asked.get("stream_options") or {}).get("include_usage") and fault != "no_usage"
        events: list[bytes] = []
        for number, delta in enumerate(_deltas(reply)):
            if fault in ("cut", "hang_mid", "error_event", "flood") and number == 3:
                await response.write(b"".join(events))
                return await _break(request, response, fault)
            chunk: dict[str, Any] = {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
            if asks_usage:
                chunk["usage"] = None
            events.append(_event(chunk))
            if pace:
                await response.write(events.pop())
                await asyncio.sleep(pace)
        events.append(_event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": _finish(reply)}]}))
        if fault == "garbage":
            events.insert(0, b"data: \xff{not json\n\n")
        if asks_usage:
            events.append(_event({**head, "choices": [], "usage": usage}))
        events.append(b"data: [DONE]\n\n")
        await response.write(b"".join(events))
        await response.write_eof()
        return response

    def _usage(self, asked: dict[str, Any], reply: dict[str, Any], sim: dict[str, Any]) -> dict[str, Any]:
        messages = asked["messages"]
        texts = [
            len(orjson.dumps(message.get("content"))) + len(orjson.dumps(message.get("tool_calls")))
            for message in messages
        ]
        given = (
            sum(texts) // _CHARS_PER_TOKEN
            + 4 * len(messages)
            + len(orjson.dumps(asked.get("tools"))) // _CHARS_PER_TOKEN
        )
        written = int(sim.get("output_tokens") or len(orjson.dumps(reply)) // _CHARS_PER_TOKEN + 1)
        limit = asked.get("max_completion_tokens") or asked.get("max_tokens")
        return {
            "prompt_tokens": given,
            "completion_tokens": min(written, limit) if limit else written,
            "total_tokens": given + written,
            "prompt_tokens_details": {"cached_tokens": self._cached(messages, given)},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }

    def _cached(self, messages: Sequence[dict[str, Any]], given: int) -> int:
        """Like OpenAI's prompt cache: the prefix seen before, in whole blocks, from a minimum on."""
        opening = hash(orjson.dumps(messages[:2]))
        before = self._cache.get(opening, 0)
        self._cache[opening] = given
        if len(self._cache) > _CACHE_ENTRIES:
            self._cache.popitem(last=False)
        shared = min(before, given)
        return shared // _CACHE_BLOCK_TOKENS * _CACHE_BLOCK_TOKENS if shared >= _CACHE_MIN_TOKENS else 0


async def _break(request: web.Request, response: web.StreamResponse, fault: str) -> web.StreamResponse:
    """What goes wrong in the middle of a stream."""
    if fault == "hang_mid":
        await asyncio.sleep(3600)
    if fault == "error_event":
        await response.write(_event({"error": {"message": "overloaded", "type": "server_error", "code": "overloaded"}}))
        await response.write_eof()
        return response
    if fault == "flood":
        for _ in range(_FLOOD_BYTES // 65_536):
            await response.write(b"x" * 65_536)
    assert request.transport is not None
    request.transport.abort()
    return response


def _reply(asked: dict[str, Any], sim: dict[str, Any]) -> dict[str, Any]:
    if isinstance(sim.get("reply"), dict):
        return {"role": "assistant", "content": None, **sim["reply"]}
    limit = asked.get("max_completion_tokens") or asked.get("max_tokens") or 10**9
    count = min(int(sim.get("output_tokens") or 40), limit, _WORDS_MAX)
    return {"role": "assistant", "content": " ".join(itertools.islice(itertools.cycle(_WORDS), count))}


def _deltas(reply: dict[str, Any]) -> list[dict[str, Any]]:
    """The reply in pieces of about a token, as providers send them."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    content = reply.get("content")
    text = content if isinstance(content, str) else ""
    deltas += [{"content": text[at : at + _CHARS_PER_TOKEN]} for at in range(0, len(text), _CHARS_PER_TOKEN)]
    for index, call in enumerate(reply.get("tool_calls") or []):
        function = call.get("function") or {}
        arguments = function.get("arguments")
        arguments = arguments if isinstance(arguments, str) else json.dumps(arguments)
        first = {"index": index, "id": call.get("id") or f"call_{index}", "type": "function"}
        deltas.append({"tool_calls": [{**first, "function": {"name": function.get("name"), "arguments": ""}}]})
        deltas.append({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]})
    return deltas


def _finish(reply: dict[str, Any]) -> str:
    return "tool_calls" if reply.get("tool_calls") else "stop"


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"


def _error(status: int) -> web.Response:
    error = {
        "error": {"message": f"simulated status {status}", "type": "simulated", "param": None, "code": "simulated"}
    }
    return web.Response(status=status, body=orjson.dumps(error), content_type="application/json")


async def _main(personalities: Sequence[Personality]) -> None:
    for personality in personalities:
        provider = SimulatedProvider(personality)
        provider.keep = 0
        print(personality.model, await provider.start(), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="simulated provider")
    parser.add_argument("--model", action="append", required=True, help="NAME:FIRST_TOKEN_SECONDS:TOKENS_PER_SECOND")
    personalities = []
    for given in parser.parse_args().model:
        name, first, rate = given.split(":")
        personalities.append(Personality(model=name, first_token=float(first), tokens_per_second=float(rate)))
    asyncio.run(_main(personalities))


if __name__ == "__main__":
    main()
