"""What a dialect is: a reader of requests and a writer of answers, whole or in events."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from ..directives import Asked, Order, Reply
from ..issued_ids import Mint
from ..usage import Meter, Usage, size, written
from .errors import Complaint, openai_error

Body = dict[str, Any]
# An event's bytes, and whether it carries a token (those are paced, and faults happen between them).
Event = tuple[bytes, bool]
# From the id in the path, and whether the caller is an Anthropic client, to a document.
Lookup = Callable[[str, bool], Body | bytes | Complaint]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An answer that only needs wording; `usage` None leaves it out."""

    number: int
    created: int
    body: Body
    reply: Reply
    usage: Usage | None


class Dialect:
    """OpenAI's ways by default. One object a provider, since some remember (Responses are stored)."""

    name = ""
    # Whose headers and errors these are.
    anthropic = False
    streams = False
    # Whether a body's `model` must be the one that is here; some bodies need not name any.
    names_model = True
    # Names of the parameters that the real API knows.
    parameters: frozenset[str] = frozenset()

    def __init__(self, meter: Meter, mint: Mint) -> None:
        self.meter = meter
        self.mint = mint

    def parse(self, raw: bytes, content_type: str) -> Body:
        """The body's fields. Raises ValueError if it has none."""
        body: Body = orjson.loads(raw)
        return body

    def complaints(self, body: Body, headers: Mapping[str, str]) -> Iterator[Complaint]:
        """What the real API would reject, the first thing first."""
        for name in body:
            if name not in self.parameters and name != "sim":
                yield Complaint(message=f"Unknown parameter: '{name}'.", slug="unknown_parameter", param=name)

    def missing(self, body: Body, asked: Asked) -> Complaint | None:
        """What the request refers to and is not here; looked for whether strict or not."""
        return None

    def read(self, body: Body) -> Asked:
        """What is asked for. May raise KeyError, TypeError, AttributeError or ValueError on a wrong shape."""
        raise NotImplementedError

    def usage(self, body: Body, asked: Asked, reply: Reply, order: Order) -> Usage:
        """What it costs."""
        given = size(body)
        count, reasoning = written(reply, order.get("output_tokens"), asked.limit)
        return Usage(given=given, written=count, reasoning=reasoning)

    def answer_id(self, number: int) -> str:
        """The answer's id, or where it has none, the call's."""
        return self.mint.id("req_", number, length=32)

    def whole(self, told: Told) -> Body | str:
        """The answer as one document, or as plain text."""
        raise NotImplementedError

    def events(self, told: Told) -> Iterator[Event]:
        """The answer as server-sent events."""
        raise NotImplementedError

    def error(self, complaint: Complaint, number: int) -> Body:
        """The refusal as a document."""
        return openai_error(complaint)

    def broken(self, told: Told, sent: int) -> bytes:
        """The error event in the middle of a stream, after so many others."""
        return data({"error": {"message": "overloaded", "type": "server_error", "code": "overloaded"}})

    def garbage(self) -> bytes:
        """An event that is none."""
        return b"data: \xff{not json\n\n"

    def lookups(self) -> dict[str, Lookup]:
        """What can be asked for without a body: "METHOD /path/{id}" to what answers."""
        return {}

    def headers(self, number: int) -> dict[str, str]:
        """What the provider adds to each answer."""
        return {"x-request-id": self.answer_id(number), **_OPENAI_HEADERS}


# Values as OpenAI documents them: https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
_OPENAI_HEADERS = {
    "openai-organization": "sim",
    "openai-version": "2020-10-01",
    "openai-processing-ms": "1",
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-reset-requests": "6ms",
    "x-ratelimit-limit-tokens": "30000000",
    "x-ratelimit-remaining-tokens": "29999000",
    "x-ratelimit-reset-tokens": "2ms",
}


def pieces(text: str, length: int) -> Iterator[str]:
    """The text in pieces of about a token."""
    for at in range(0, len(text), length):
        yield text[at : at + length]


def data(document: Any) -> bytes:
    """A server-sent event without a name."""
    encoded: bytes = orjson.dumps(document)
    return b"data: " + encoded + b"\n\n"


def named(document: Body) -> bytes:
    """A server-sent event whose name is its type."""
    return f"event: {document['type']}\n".encode() + data(document)
