"""The dialects of the simulated provider, one file each; pure.

Requests become a `SimulatedRequest`, replies become bytes. Start at `base.py`. `*_rules.py` hold what the real API
rejects, for a strict provider.
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

# What `SimulatedModel.dialects` may contain.
DIALECT_NAMES = frozenset(
    {"chat", "responses", "messages", "embeddings", "completions", "models", "files", "moderations", "images", "audio"}
)


def dialect_routes(prompt_cache: PromptCache, ids: IdIssuer, model: str) -> Iterator[tuple[str, SimulatedDialect]]:
    """Each dialect with the path of its POST requests.

    The path is "" if it only serves resources.
    """
    yield "/v1/chat/completions", Chat(prompt_cache, ids)
    yield "/v1/responses", Responses(prompt_cache, ids)
    yield "/v1/responses/input_tokens", InputTokens(prompt_cache, ids)
    yield "/v1/messages", Messages(prompt_cache, ids)
    yield "/v1/messages/count_tokens", CountTokens(prompt_cache, ids)
    yield "/v1/embeddings", Embeddings(prompt_cache, ids)
    yield "/v1/completions", Completions(prompt_cache, ids)
    yield "/v1/moderations", Moderations(prompt_cache, ids)
    yield "/v1/images/generations", Images(prompt_cache, ids)
    yield "/v1/audio/transcriptions", Transcriptions(prompt_cache, ids)
    yield "/v1/files", Files(prompt_cache, ids)
    yield "", Models(prompt_cache, ids, model)
