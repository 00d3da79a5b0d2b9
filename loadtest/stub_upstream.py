"""A mock upstream that costs as little as Python can: an asyncio protocol that answers canned bytes.

Streams are paced (one event a write) so that every event is one chunk at the proxy. `python loadtest/stub_upstream.py PORT`
Query of the path: /v1/... answers 1 KB whole, or with "stream":true in the body EVENTS events. Paths are not looked at.
"""

import asyncio
import json
import sys

EVENTS = 100
# Between two events of a stream, so that none are merged on the way.
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
    """Reads a request up to its Content-Length, answers, goes on."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A new connection."""
        self.transport = transport
        self.buffer = bytearray()
        self.bytes_needed = -1
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone."""
        self.is_open = False

    def data_received(self, data: bytes) -> None:
        """Count bytes until the request is whole."""
        self.buffer += data
        while True:
            if self.bytes_needed < 0:
                end = self.buffer.find(b"\r\n\r\n")
                if end < 0:
                    return
                head = bytes(self.buffer[:end]).lower()
                at = head.find(b"content-length:")
                length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
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
