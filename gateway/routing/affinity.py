"""What binds a conversation: state in its history that only its maker can read. Pure.

Signed thinking, sealed reasoning, files and answers that lie with a provider: a deployment that cannot read them would
fail or, worse, go on without them. A plan never moves such a conversation away (rules/binding.py).
"""

from collections.abc import Collection

from ..values.catalog import Deployment, Route
from ..values.plan import Bond
from ..values.request import Request

# Which providers' dialects can read a kind of state when nobody remembers who made it.
_READERS = {
    "thinking": ("signed thinking", ("anthropic", "litellm")),
    "unsigned_thinking": ("thinking without a signature", ("openai", "litellm")),
    "encrypted_reasoning": ("sealed reasoning", ("openai",)),
    "thought_id": ("tool call ids that hold Gemini's thought signatures", ("litellm",)),
}


def bonds_of(request: Request, route: Route, *, minted_by: str, origins: Collection[str]) -> tuple[Bond, ...]:
    """`minted_by`: the provider that served the session last, "" if nobody remembers; `origins`: the providers where the
    things that the request refers to are known to lie."""
    bonds = []
    for kind in sorted(request.state):
        if kind in _READERS:
            what, dialects = _READERS[kind]
            readers = {one.provider for one in route.candidates if one.dialect in dialects}
            bonds.append(Bond(what=what, providers=frozenset({minted_by} & readers or readers)))
    if "own_seal" in request.state:
        # Native Responses would refuse it; whoever is reached by a crossing gets what it holds.
        crossed = {one.provider for one in route.candidates if "responses" not in one.speaks} | {minted_by}
        bonds.append(Bond(what="reasoning that was sealed here", providers=frozenset(crossed)))
    if request.references or "stored" in request.state:
        lies_with = frozenset(origins) or _home(request, route, minted_by)
        bonds.append(Bond(what="an answer or a conversation that lies with its provider", providers=lies_with))
    if "file" in request.state:
        bonds.append(Bond(what="files by id", providers=_home(request, route, minted_by)))
    if request.dialect == "embeddings":
        # Vectors of different models do not compare: what was begun with one must go on with it.
        bonds.append(Bond(what="the vectors of its model", models=frozenset({route.candidates[0].model})))
    return tuple(bonds)


def _home(request: Request, route: Route, minted_by: str) -> frozenset[str]:
    """Where things of unknown origin are looked for: with who served last, else the first that speaks the dialect."""
    passage = request.passage
    native: list[Deployment] = [
        one
        for one in route.candidates
        if (request.dialect in one.speaks if passage is None else one.dialect == passage.dialect)
    ]
    names = [one.provider for one in native or route.candidates]
    return frozenset({minted_by} if minted_by in names else names[:1])
