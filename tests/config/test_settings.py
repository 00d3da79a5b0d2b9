"""Settings of the process from PENSTOCK_* variables."""

import pytest

from gateway.config.settings import Settings, read_settings, require_proxies, weak_setting_notes
from gateway.values.errors import ConfigError


def test_unknown_and_invalid_variables_are_problems(monkeypatch):
    monkeypatch.setenv("PENSTOCK_PROT", "1")
    monkeypatch.setenv("PENSTOCK_PORT", "high")
    monkeypatch.setenv("PENSTOCK_KEY_MINE", "fine")
    with pytest.raises(ConfigError) as raised:
        read_settings()
    text = "\n".join(raised.value.problems)
    assert "unknown variable PENSTOCK_PROT; did you mean PENSTOCK_PORT?" in text
    assert "PENSTOCK_PORT must be a whole number, not 'high'" in text
    assert "PENSTOCK_KEY_MINE" not in text


def test_an_env_file_is_read_only_if_it_is_named(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("PENSTOCK_PORT=1234\n")
    monkeypatch.chdir(tmp_path)
    assert read_settings().port == 8080
    monkeypatch.setenv("PENSTOCK_ENV_FILE", str(tmp_path / ".env"))
    assert read_settings().port == 1234


@pytest.mark.parametrize(
    "name, value, requirement",
    [
        (
            "REDIS_URL",
            "localhost:hunter2",
            "must begin with redis://, rediss://, redis+cluster:// or rediss+cluster://",
        ),
        (
            "REDIS_URL",
            "redis://:hun#ter2@host:6379",
            "must be like redis://user:password@host:6379/0, with '/', '?' and '#' of a password encoded",
        ),
        ("APPROVAL_SECRET", "hunter2", "must have at least 16 characters"),
        ("PORT", "sk-hunter2", "must be a whole number, not [hidden: looks like a secret]"),
        ("PORT", "99999", "must be at most 65535"),
        ("LOG_LEVEL", "debug", "must be DEBUG, INFO, WARNING or ERROR"),
        ("CORS_ORIGINS", "example.com", "must be origins like https://app.example.com, separated by commas, or *"),
    ],
)
def test_a_variable_with_an_invalid_value_says_what_is_valid(monkeypatch, name, value, requirement):
    monkeypatch.setenv(f"PENSTOCK_{name}", value)
    with pytest.raises(ConfigError) as raised:
        read_settings()
    assert list(raised.value.problems) == [f"environment: PENSTOCK_{name} {requirement}"]


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster", "rediss+cluster"])
def test_the_redis_url_may_be_of_a_server_or_a_cluster(monkeypatch, scheme):
    monkeypatch.setenv("PENSTOCK_REDIS_URL", f"{scheme}://host:6379")
    assert read_settings().redis_url is not None


@pytest.mark.parametrize(
    "url",
    ["redis://", "redis://h", "rediss://u:p@ss:w,rd@h:1/0?x=1", "redis://[::1]:6379/0", "redis+cluster://:p@h1:1,h2:2", "redis:///1"],
)  # fmt: skip
def test_every_form_of_a_redis_url_is_taken(monkeypatch, url):
    monkeypatch.setenv("PENSTOCK_REDIS_URL", url)
    settings = read_settings()
    assert settings.redis_url is not None and settings.redis_url.get_secret_value() == url
    assert url not in repr(settings)


@pytest.mark.parametrize("token", ["", "  ", "\n"], ids=["empty", "blanks", "a line break"])
def test_a_blank_admin_token_is_none(monkeypatch, token):
    monkeypatch.setenv("PENSTOCK_ADMIN_TOKEN", token)
    assert read_settings().admin_token is None


@pytest.mark.parametrize(("token", "count"), [("", 0), ("s3cret", 1), ("x" * 15, 1), ("x" * 16, 0)])
def test_a_short_admin_token_is_noted(token, count):
    notes = weak_setting_notes({"PENSTOCK_ADMIN_TOKEN": token})
    assert len(notes) == count and not any("s3cret" in note for note in notes)


@pytest.mark.parametrize(
    "environment, proxy, problems",
    [
        ({"HTTPS_PROXY": "socks5://u:secret@p:1"}, None, ["environment: HTTPS_PROXY must be the URL of an HTTP proxy"]),
        ({"HTTP_PROXY": "socks5://p:1"}, None, []),
        ({"ALL_PROXY": "socks5://p:1", "NO_PROXY": "far.example"}, None, []),
        ({"HTTPS_PROXY": "socks5://p:1"}, "none", []),
        ({}, "p:port", ["environment: PENSTOCK_PROXY must be the URL of an HTTP proxy"]),
    ],
    ids=["of a provider", "of no provider", "of none that it covers", "switched off", "the setting's own"],
)
def test_a_proxy_is_checked_where_a_provider_needs_it(environment, proxy, problems):
    settings = Settings(proxy=proxy)
    urls = ("https://far.example/v1", "http://127.0.0.1:8000/v1")
    if not problems:
        require_proxies(settings, urls, environment)
        return
    with pytest.raises(ConfigError) as raised:
        require_proxies(settings, urls, environment)
    (problem,) = raised.value.problems
    assert problem.startswith(problems[0]) and problem.endswith("PENSTOCK_PROXY=none calls providers directly")
    assert "secret" not in problem
