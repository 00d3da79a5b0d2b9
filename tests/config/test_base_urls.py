"""Base URLs that make every call a 404."""

import pytest

from gateway.config.base_urls import base_url_mistake
from gateway.config.load import parse
from gateway.values.errors import ConfigError
from tests.config.test_load import GOOD
from tests.snapshots import ENV


@pytest.mark.parametrize(
    "url, dialect, words",
    [
        ("http://a:1/v1/chat/completions", "openai", "'base_url' must end before '/chat/completions'"),
        ("http://a:1/v1/Chat/Completions/", "openai", "'base_url' must end before '/chat/completions'"),
        ("http://a:1/v1/completions", "openai", "'base_url' must end before '/completions'"),
        ("http://a:1/v1/responses/", "openai", "'base_url' must end before '/responses'"),
        ("http://a:1/v1/embeddings", "openai", "'base_url' must end before '/embeddings'"),
        ("http://a:1/v1/models", "openai", "'base_url' must end before '/models'"),
        ("http://a:1/v1/chat", "openai", "'base_url' must end before '/chat'"),
        ("https://api.anthropic.com/v1/messages", "anthropic", "'base_url' must end before '/messages'"),
        ("http://a:1/v1/v1", "openai", "'base_url' has '/v1' twice"),
        ("http://a:1/v1//v1/", "openai", "'base_url' has '/v1' twice"),
        ("http://a:1/V1/v1", "anthropic", "'base_url' has '/v1' twice"),
        ("https://api.openai.com", "openai", "'base_url' must end in '/v1' at this host"),
        ("https://openrouter.ai/", "openai", "'base_url' must end in '/api/v1' at this host"),
    ],
)
def test_a_base_url_that_cannot_work_is_named(url, dialect, words):
    assert (base_url_mistake(url, dialect) or "").startswith(words)


@pytest.mark.parametrize(
    "url, dialect",
    [
        ("http://a:1", "openai"), ("http://a:1/", "openai"), ("http://a:1/v1", "openai"), ("http://a:1/v1/", "openai"),
        ("https://api.deepseek.com", "openai"), ("https://api.anthropic.com", "anthropic"),
        ("https://api.anthropic.com/v1", "anthropic"), ("https://h/v1beta/openai", "openai"), ("http://a/v1/v1beta", "openai"),
        ("https://gateway.example/v1/account/name/openai", "openai"), ("http://a/v1/chat/completions", "litellm"),
        ("http://[", "openai"), ("http://a/mychat", "openai"),
    ],
)  # fmt: skip
def test_any_other_base_url_is_left_to_its_server(url, dialect):
    assert base_url_mistake(url, dialect) is None


def test_the_problem_stands_at_its_line_among_the_others_and_does_not_repeat_the_url():
    text = GOOD.replace("http://a/v1", "http://u:secret@a/v1/chat/completions").replace("tier: small", "tier: smal")
    with pytest.raises(ConfigError) as raised:
        parse(text, "r.yaml", ENV)
    first, second = raised.value.problems
    assert first == "r.yaml:8:20: 'base_url' must end before '/chat/completions', which is added to it"
    assert "'tier' must be" in second and "secret" not in first


def test_a_provider_without_deployments_is_checked_as_well():
    text = GOOD.replace("providers:", "providers:\n  spare: {base_url: 'http://a/v1/v1'}")
    with pytest.raises(ConfigError, match="has '/v1' twice"):
        parse(text, "r.yaml", ENV)
