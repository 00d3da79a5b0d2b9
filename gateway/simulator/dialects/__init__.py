"""The dialects that the simulated provider speaks, one file each; pure: requests to `Asked`, replies to bytes.

Start reading at `base.py`. `*_rules.py` hold what the real API rejects, for a provider that is strict.
"""

from collections.abc import Iterator

from ..issued_ids import IdIssuer
from ..usage import PromptCache
from .base import SimulatedDialect
from .chat import Chat
from .completions import Completions
from .embeddings import Embeddings
from .messages import CountTokens, Messages
from .multipart import Files, Transcriptions
from .other_endpoints import Images, InputTokens, Models, Moderations
from .responses import Responses

# What `Personality.speaks` may hold.
DIALECT_NAMES = frozenset(
    {"chat", "responses", "messages", "embeddings", "completions", "models", "files", "moderations", "images", "audio"}
)


def dialect_routes(meter: PromptCache, mint: IdIssuer, model: str) -> Iterator[tuple[str, SimulatedDialect]]:
    """Each dialect with the path to which its requests are posted ("" if only lookups are answered)."""
    yield "/v1/chat/completions", Chat(meter, mint)
    yield "/v1/responses", Responses(meter, mint)
    yield "/v1/responses/input_tokens", InputTokens(meter, mint)
    yield "/v1/messages", Messages(meter, mint)
    yield "/v1/messages/count_tokens", CountTokens(meter, mint)
    yield "/v1/embeddings", Embeddings(meter, mint)
    yield "/v1/completions", Completions(meter, mint)
    yield "/v1/moderations", Moderations(meter, mint)
    yield "/v1/images/generations", Images(meter, mint)
    yield "/v1/audio/transcriptions", Transcriptions(meter, mint)
    yield "/v1/files", Files(meter, mint)
    yield "", Models(meter, mint, model)
