"""What binds a conversation: state in its history that only its maker can read. Pure.

Signed thinking, sealed reasoning, files and answers that lie with a provider: a deployment that cannot read them would
fail or, worse, go on without them. A plan never moves such a conversation away (rules/binding.py).
"""

from collections.abc import Collection

from ..values.catalog import Deployment, Route
from ..values.plan import Affinity
from ..values.request import Request

# Which providers' dialects can read a kind of state when nobody remembers who made it.
_READER_DIALECTS = {
    "thinking": ("signed thinking", ("anthropic", "litellm")),
    "unsigned_thinking": ("thinking without a signature", ("openai", "litellm")),
    "encrypted_reasoning": ("sealed reasoning", ("openai",)),
    "thought_id": ("tool call ids that hold Gemini's thought signatures", ("litellm",)),
}


def affinities_of(request: Request, route: Route, *, minted_by: str, origins: Collection[str]) -> tuple[Affinity, ...]:
    """`minted_by`: the provider that served the session last, "" if nobody remembers; `origins`: the providers where the
    things that the request refers to are known to lie."""
    affinities = []
    for kind in sorted(request.provider_state):
        if kind in _READER_DIALECTS:
            what, dialects = _READER_DIALECTS[kind]
            readers = {one.provider for one in route.candidates if one.dialect in dialects}
            affinities.append(Affinity(cause=what, providers=frozenset({minted_by} & readers or readers)))
    if "own_seal" in request.provider_state:
        # Native Responses would refuse it; whoever is reached by a crossing gets what it holds.
        crossed = {one.provider for one in route.candidates if "responses" not in one.dialects} | {minted_by}
        affinities.append(Affinity(cause="reasoning that was sealed here", providers=frozenset(crossed)))
    if request.referenced_ids or "stored" in request.provider_state:
        lies_with = frozenset(origins) or _likely_providers(request, route, minted_by)
        affinities.append(
            Affinity(cause="an answer or a conversation that lies with its provider", providers=lies_with)
        )
    if "file" in request.provider_state:
        affinities.append(Affinity(cause="files by id", providers=_likely_providers(request, route, minted_by)))
    if request.dialect == "embeddings":
        # Vectors of different models do not compare: what was begun with one must go on with it.
        affinities.append(Affinity(cause="the vectors of its model", models=frozenset({route.candidates[0].model})))
    return tuple(affinities)


def _likely_providers(request: Request, route: Route, minted_by: str) -> frozenset[str]:
    """Where things of unknown origin are looked for: with who served last, else the first that speaks the dialect."""
    passthrough = request.passthrough
    native: list[Deployment] = [
        one
        for one in route.candidates
        if (request.dialect in one.dialects if passthrough is None else one.dialect == passthrough.dialect)
    ]
    names = [one.provider for one in native or route.candidates]
    return frozenset({minted_by} if minted_by in names else names[:1])
