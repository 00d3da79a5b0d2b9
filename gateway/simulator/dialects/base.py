"""The base of simulated dialects: parses requests, encodes answers."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from ..directives import Directive, SimulatedReply, SimulatedRequest
from ..issued_ids import IdIssuer
from ..priced_extras import NO_EXTRAS, PricedExtras
from ..usage import PromptCache, SimulatedUsage, json_tokens, output_token_counts
from .errors import ApiError, openai_error_body

Body = dict[str, Any]
# An event's bytes, and whether it carries a token (those are paced, and faults happen between them).
PacedEvent = tuple[bytes, bool]
# (id in the path, whether the caller is an Anthropic client) -> document.
ResourceHandler = Callable[[str, bool], Body | bytes | ApiError]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerContent:
    """An answer before a dialect encodes it.

    body: of the request
    usage: None: not reported
    extras: what it costs beyond its tokens
    """

    sequence_number: int
    created_at: int
    body: Body
    reply: SimulatedReply
    usage: SimulatedUsage | None
    extras: PricedExtras = NO_EXTRAS


class SimulatedDialect:
    """A dialect, with OpenAI's conventions by default.

    One object per provider, since some keep state (stored Responses).
    """

    name = ""
    # Whether headers and errors are Anthropic's, else OpenAI's.
    is_anthropic = False
    supports_streaming = False
    # Whether a body's `model` must be the provider's; some bodies need not name any.
    requires_model = True
    # Parameters of the real API.
    known_parameters: frozenset[str] = frozenset()

    def __init__(self, prompt_cache: PromptCache, ids: IdIssuer) -> None:
        self.prompt_cache = prompt_cache
        self.ids = ids

    def parse_body(self, raw: bytes, content_type: str) -> Body:
        """The body's fields. Raises ValueError if it has none."""
        body: Body = orjson.loads(raw)
        return body

    def validation_errors(self, body: Body, headers: Mapping[str, str]) -> Iterator[ApiError]:
        """What the real API would reject, most important first."""
        for name in body:
            if name not in self.known_parameters and name != "sim":
                yield ApiError(message=f"Unknown parameter: '{name}'.", openai_code="unknown_parameter", param=name)

    def missing_reference_error(self, body: Body, request: SimulatedRequest) -> ApiError | None:
        """The error for an id that is not stored here, strict or not."""
        return None

    def parse_request(self, body: Body) -> SimulatedRequest:
        """The request in dialect-neutral form.

        May raise KeyError, TypeError, AttributeError or ValueError on a wrong shape.
        """
        raise NotImplementedError

    def usage(
        self, body: Body, request: SimulatedRequest, reply: SimulatedReply, directive: Directive
    ) -> SimulatedUsage:
        """The usage of the answer."""
        input_tokens = json_tokens(body)
        count, reasoning = output_token_counts(reply, directive.get("output_tokens"), request.max_output_tokens)
        return SimulatedUsage(input_tokens=input_tokens, output_tokens=count, reasoning_tokens=reasoning)

    def response_id(self, number: int) -> str:
        """The answer's id, or where it has none, the request's."""
        return self.ids.id("req_", number, length=32)

    def document(self, answer: AnswerContent) -> Body | str:
        """The answer as one document, or as plain text."""
        raise NotImplementedError

    def events(self, answer: AnswerContent) -> Iterator[PacedEvent]:
        """The answer as server-sent events."""
        raise NotImplementedError

    def error_body(self, error: ApiError, number: int) -> Body:
        """The error as a document."""
        return openai_error_body(error)

    def error_event(self, answer: AnswerContent, sent: int) -> bytes:
        """An error event in the middle of a stream; `sent`: events before it."""
        return sse_data({"error": {"message": "overloaded", "type": "server_error", "code": "overloaded"}})

    def malformed_event(self) -> bytes:
        """An invalid event."""
        return b"data: \xff{not json\n\n"

    def resource_routes(self) -> dict[str, ResourceHandler]:
        """ "METHOD /path/{id}" -> handler of requests without a body."""
        return {}

    def resource_stream(self, id: str, after: int) -> bytes | ApiError:
        """The events of a stored answer from the one `after` that number on."""
        return ApiError(message="Unknown parameter: 'stream'.", openai_code="unknown_parameter", param="stream")

    def response_headers(self, number: int) -> dict[str, str]:
        """Headers of each answer."""
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
    """The text in chunks of `length` characters."""
    for offset in range(0, len(text), length):
        yield text[offset : offset + length]


def sse_data(document: Any) -> bytes:
    """A server-sent event without a name."""
    encoded: bytes = orjson.dumps(document)
    return b"data: " + encoded + b"\n\n"


def sse_named(document: Body) -> bytes:
    """A server-sent event whose name is its type."""
    return f"event: {document['type']}\n".encode() + sse_data(document)
