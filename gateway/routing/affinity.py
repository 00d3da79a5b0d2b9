"""Affinities: state in the history that only certain providers can read. Pure.

Signed thinking, encrypted reasoning, files and stored responses: a deployment that cannot read them would fail or,
worse, silently ignore them. A plan never moves such a conversation away (rules/affinity.py).
"""

from collections.abc import Collection

from ..values.catalog import Deployment, Route
from ..values.plan import Affinity
from ..values.request import Request

# Per kind of state: its name in messages, and the dialects that can read it when its provider is unknown.
_READER_DIALECTS = {
    "thinking": ("signed thinking", ("anthropic", "litellm")),
    "unsigned_thinking": ("unsigned thinking", ("openai", "litellm")),
    "encrypted_reasoning": ("encrypted reasoning", ("openai",)),
    "thought_id": ("Gemini thought signatures in tool call ids", ("litellm",)),
}


def affinities_of(
    request: Request, route: Route, *, last_provider: str, origins: Collection[str], file_origins: Collection[str] = ()
) -> tuple[Affinity, ...]:
    """What binds the conversation to providers or models.

    last_provider: provider that served the session last, "" if unknown
    origins: providers known to hold the responses and other objects that the request refers to
    file_origins: providers known to hold the files, vector stores and containers that it uses
    """
    affinities = []
    for kind in sorted(request.provider_state):
        if kind in _READER_DIALECTS:
            cause, dialects = _READER_DIALECTS[kind]
            readers = {candidate.provider for candidate in route.candidates if candidate.dialect in dialects}
            affinities.append(Affinity(cause=cause, providers=frozenset({last_provider} & readers or readers)))
    if "own_seal" in request.provider_state:
        # A native Responses provider would refuse it; through a translation its content is readable.
        readers = {candidate.provider for candidate in route.candidates if "responses" not in candidate.dialects}
        affinities.append(
            Affinity(cause="reasoning encrypted by this gateway", providers=frozenset(readers | {last_provider}))
        )
    if request.referenced_ids or "stored" in request.provider_state:
        providers = frozenset(origins) or _likely_providers(request, route, last_provider)
        affinities.append(Affinity(cause="stored response or conversation", providers=providers))
    if "file" in request.provider_state or file_origins:
        providers = frozenset(file_origins) or _likely_providers(request, route, last_provider)
        affinities.append(Affinity(cause="file ids", providers=providers))
    if request.dialect == "embeddings":
        # Vectors of different models are not comparable.
        affinities.append(Affinity(cause="embedding vectors", models=frozenset({route.candidates[0].model})))
    return tuple(affinities)


def _likely_providers(request: Request, route: Route, minted_by: str) -> frozenset[str]:
    """Providers expected to hold state of unknown origin.

    The last one that served, else the first native to the dialect.
    """
    passthrough = request.passthrough
    native: list[Deployment] = [
        candidate
        for candidate in route.candidates
        if (request.dialect in candidate.dialects if passthrough is None else candidate.dialect == passthrough.dialect)
    ]
    names = [candidate.provider for candidate in native or route.candidates]
    return frozenset({minted_by} if minted_by in names else names[:1])
