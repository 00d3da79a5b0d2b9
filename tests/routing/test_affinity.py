"""Affinities: what a conversation is bound to, and the rule that applies it."""

import pytest

from gateway.config.load import parse
from gateway.dialects import PARSERS
from gateway.routing.affinity import affinities_of
from gateway.routing.rules import affinity
from gateway.routing.rules.candidate import Candidate
from gateway.values.plan import Affinity, RequestFeatures
from gateway.values.snapshot import Snapshot

TEXT = """
version: 1
access: open
providers:
  a: {dialect: anthropic, base_url: "http://a"}
  b: {dialect: anthropic, base_url: "http://b"}
  o: {base_url: "http://o/v1"}
  l: {dialect: litellm}
deployments:
  a: {provider: a, model: claude, tier: frontier}
  b: {provider: b, model: claude, tier: frontier}
  o: {provider: o, model: gpt, tier: small}
  p: {provider: o, model: other, tier: small}
  l: {provider: l, model: gemini/x, tier: small}
routes:
  all: {candidates: [o, p, a, b, l]}
"""
THINKING = b'{"model":"all","messages":[{"role":"user","content":"x"},{"role":"assistant","content":[{"type":"thinking","thinking":"y","signature":"%s"}]}]}'  # fmt: skip
FILE = (
    b'{"model":"all","messages":[{"role":"user","content":[{"type":"image","source":{"type":"file","file_id":"f"}}]}]}'
)
SEALED = b'{"model":"all","input":[{"type":"reasoning","encrypted_content":"theirs"}]}'
REFERENCE = b'{"model":"all","input":[{"type":"item_reference","id":"x"}]}'
PREVIOUS = b'{"model":"all","input":"x","previous_response_id":"resp_1"}'


def make_snapshot() -> Snapshot:
    return parse(TEXT, "affinity.yaml", {})[0]


@pytest.mark.parametrize(
    "dialect, body, minted_by, origins, providers",
    [
        ("messages", THINKING % b"sig", "", (), {"a", "b", "l"}),
        ("messages", THINKING % b"sig", "b", (), {"b"}),
        ("messages", THINKING % b"sig", "o", (), {"a", "b", "l"}),
        ("messages", THINKING % b"penstock-unsigned", "o", (), {"o"}),
        ("messages", FILE, "", (), {"a"}),
        ("messages", FILE, "b", (), {"b"}),
        ("responses", SEALED, "", (), {"o"}),
        ("responses", REFERENCE, "", (), {"o"}),
        ("responses", PREVIOUS, "", {"o"}, {"o"}),
        ("responses", PREVIOUS, "a", (), {"o"}),
    ],
    ids=[
        "signed thinking: providers that check signatures", "signed thinking: its author if known",
        "signed thinking: another last provider is ignored", "unsigned thinking: not Anthropic",
        "files: first provider of the dialect", "files: last provider", "encrypted reasoning: OpenAI",
        "item reference: OpenAI", "stored response: provider that holds it", "stored response of unknown origin: OpenAI",
    ],
)  # fmt: skip
def test_affinity_names_the_providers_that_can_read_the_history(dialect, body, minted_by, origins, providers):
    (affinity,) = affinities_of(
        PARSERS[dialect](body), make_snapshot().routes["all"], last_provider=minted_by, origins=origins
    )
    assert affinity.providers == providers


def test_files_are_read_where_they_are_known_to_be():
    route = make_snapshot().routes["all"]
    (affinity,) = affinities_of(PARSERS["messages"](FILE), route, last_provider="a", origins=(), file_origins={"b"})
    assert (affinity.cause, affinity.providers) == ("file ids", frozenset({"b"}))
    search = PARSERS["responses"](
        b'{"model":"all","input":"x","tools":[{"type":"file_search","vector_store_ids":["v"]}]}'
    )
    assert affinities_of(search, route, last_provider="", origins=()) == ()
    (affinity,) = affinities_of(search, route, last_provider="", origins=(), file_origins={"o"})
    assert affinity.providers == frozenset({"o"})


def test_embeddings_are_bound_to_their_model():
    request = PARSERS["embeddings"](b'{"model":"all","input":"x"}')
    (affinity,) = affinities_of(request, make_snapshot().routes["all"], last_provider="", origins=())
    assert affinity.models == frozenset({"gpt"})


@pytest.mark.parametrize(
    "bound, name, excluded",
    [
        (Affinity(cause="x", providers=frozenset({"a"})), "a", False),
        (Affinity(cause="x", providers=frozenset({"a"})), "o", True),
        (Affinity(cause="x", providers=frozenset()), "a", True),
        (Affinity(cause="x", models=frozenset({"gpt"})), "o", False),
        (Affinity(cause="x", models=frozenset({"gpt"})), "p", True),
    ],
)
def test_the_rule_excludes_deployments_outside_the_affinity(bound, name, excluded):
    features = RequestFeatures(
        input_tokens=1, input_tokens_max=1, turns=1, tool_names=frozenset(), tool_errors=0, has_images=False,
        has_schema=False, code_share=0.0, words=frozenset(), newest_chars=1, affinities=(bound,),
    )  # fmt: skip
    candidate = Candidate(
        deployment=make_snapshot().deployments[name], output_tokens_max=1, hold_nusd=None, hold_millijoules=None,
        output_tokens=1, expected_millijoules=0, expected_micrograms=0, longest_context=True, upstream_dialect="chat",
    )  # fmt: skip
    assert (affinity.forbids(candidate, features) is not None) == excluded
