"""A minimal mock upstream for benchmarks: an asyncio protocol that answers with fixed bytes.

    python loadtest/stub_upstream.py PORT

Answers every path with 1 KB of JSON, or with EVENTS events where the body has "stream":true. Streams are paced (one
event per write), so that every event is one chunk at the proxy.
"""

import asyncio
import json
import sys

EVENTS = 100
# Between two events of a stream, so that none are merged on their way.
GAP_SECONDS = 0.002

_COMPLETION = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1,
        "model": "sim-small",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 160}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 200, "completion_tokens": 160, "total_tokens": 360},
    }
).encode()
_HTTP_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(_COMPLETION),
    _COMPLETION,
)
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(document: dict | None) -> bytes:
    data = b"data: " + (json.dumps(document).encode() if document else b"[DONE]") + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


_CHUNK_FIELDS = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1, "model": "sim-small"}
_EVENT = _chunk(
    {**_CHUNK_FIELDS, "choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}], "usage": None}
)
_FINAL_CHUNKS = (
    _chunk({**_CHUNK_FIELDS, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None})
    + _chunk(
        {
            **_CHUNK_FIELDS,
            "choices": [],
            "usage": {"prompt_tokens": 200, "completion_tokens": EVENTS, "total_tokens": 300},
        }
    )
    + _chunk(None)
    + b"0\r\n\r\n"
)


class StubUpstream(asyncio.Protocol):
    """Reads requests by their Content-Length and answers each."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with an empty buffer."""
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport
        self.buffer = bytearray()
        self.bytes_needed = -1
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop a running stream."""
        self.is_open = False

    def data_received(self, data: bytes) -> None:
        """Collect bytes until the request is complete, then answer."""
        self.buffer += data
        while True:
            if self.bytes_needed < 0:
                end = self.buffer.find(b"\r\n\r\n")
                if end < 0:
                    return
                head = bytes(self.buffer[:end]).lower()
                start = head.find(b"content-length:")
                length = int(head[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
                self.bytes_needed = end + 4 + length
            if len(self.buffer) < self.bytes_needed:
                return
            stream = b'"stream":true' in self.buffer or b'"stream": true' in self.buffer
            del self.buffer[: self.bytes_needed]
            self.bytes_needed = -1
            if stream:
                self.task = asyncio.ensure_future(self._stream())
            else:
                self.transport.write(_HTTP_RESPONSE)

    async def _stream(self) -> None:
        self.transport.write(_STREAM_HEAD)
        for _ in range(EVENTS):
            if not self.is_open:
                return
            self.transport.write(_EVENT)
            await asyncio.sleep(GAP_SECONDS)
        if self.is_open:
            self.transport.write(_FINAL_CHUNKS)


async def _main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(StubUpstream, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
