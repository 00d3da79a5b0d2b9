"""What a dialect is: a reader of requests and a writer of answers, whole or in events."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from ..directives import Directive, SimulatedReply, SimulatedRequest
from ..issued_ids import IdIssuer
from ..usage import PromptCache, SimulatedUsage, json_tokens, output_token_counts
from .errors import ApiError, openai_error_body

Body = dict[str, Any]
# An event's bytes, and whether it carries a token (those are paced, and faults happen between them).
PacedEvent = tuple[bytes, bool]
# From the id in the path, and whether the caller is an Anthropic client, to a document.
ResourceHandler = Callable[[str, bool], Body | bytes | ApiError]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerContent:
    """An answer that only needs wording; `usage` None leaves it out."""

    sequence_number: int
    created_at: int
    body: Body
    reply: SimulatedReply
    usage: SimulatedUsage | None


class SimulatedDialect:
    """OpenAI's ways by default. One object a provider, since some remember (Responses are stored)."""

    name = ""
    # Whose headers and errors these are.
    is_anthropic = False
    supports_streaming = False
    # Whether a body's `model` must be the one that is here; some bodies need not name any.
    requires_model = True
    # Names of the parameters that the real API knows.
    known_parameters: frozenset[str] = frozenset()

    def __init__(self, meter: PromptCache, mint: IdIssuer) -> None:
        self.prompt_cache = meter
        self.ids = mint

    def parse_body(self, raw: bytes, content_type: str) -> Body:
        """The body's fields. Raises ValueError if it has none."""
        body: Body = orjson.loads(raw)
        return body

    def validation_errors(self, body: Body, headers: Mapping[str, str]) -> Iterator[ApiError]:
        """What the real API would reject, the first thing first."""
        for name in body:
            if name not in self.known_parameters and name != "sim":
                yield ApiError(message=f"Unknown parameter: '{name}'.", openai_code="unknown_parameter", param=name)

    def missing_reference_error(self, body: Body, asked: SimulatedRequest) -> ApiError | None:
        """What the request refers to and is not here; looked for whether strict or not."""
        return None

    def parse_request(self, body: Body) -> SimulatedRequest:
        """What is asked for. May raise KeyError, TypeError, AttributeError or ValueError on a wrong shape."""
        raise NotImplementedError

    def usage(self, body: Body, asked: SimulatedRequest, reply: SimulatedReply, order: Directive) -> SimulatedUsage:
        """What it costs."""
        given = json_tokens(body)
        count, reasoning = output_token_counts(reply, order.get("output_tokens"), asked.max_output_tokens)
        return SimulatedUsage(input_tokens=given, output_tokens=count, reasoning_tokens=reasoning)

    def response_id(self, number: int) -> str:
        """The answer's id, or where it has none, the call's."""
        return self.ids.id("req_", number, length=32)

    def document(self, told: AnswerContent) -> Body | str:
        """The answer as one document, or as plain text."""
        raise NotImplementedError

    def events(self, told: AnswerContent) -> Iterator[PacedEvent]:
        """The answer as server-sent events."""
        raise NotImplementedError

    def error_body(self, complaint: ApiError, number: int) -> Body:
        """The refusal as a document."""
        return openai_error_body(complaint)

    def error_event(self, told: AnswerContent, sent: int) -> bytes:
        """The error event in the middle of a stream, after so many others."""
        return sse_data({"error": {"message": "overloaded", "type": "server_error", "code": "overloaded"}})

    def malformed_event(self) -> bytes:
        """An event that is none."""
        return b"data: \xff{not json\n\n"

    def resource_routes(self) -> dict[str, ResourceHandler]:
        """What can be asked for without a body: "METHOD /path/{id}" to what answers."""
        return {}

    def response_headers(self, number: int) -> dict[str, str]:
        """What the provider adds to each answer."""
        return {"x-request-id": self.response_id(number), **_OPENAI_HEADERS}


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


def text_chunks(text: str, length: int) -> Iterator[str]:
    """The text in pieces of about a token."""
    for at in range(0, len(text), length):
        yield text[at : at + length]


def sse_data(document: Any) -> bytes:
    """A server-sent event without a name."""
    encoded: bytes = orjson.dumps(document)
    return b"data: " + encoded + b"\n\n"


def sse_named(document: Body) -> bytes:
    """A server-sent event whose name is its type."""
    return f"event: {document['type']}\n".encode() + sse_data(document)
