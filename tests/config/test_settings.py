"""Settings of the process from PENSTOCK_* variables."""

import pytest

from gateway.config.settings import read_settings
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
        ("PORT", "99999", "must be at most 65535"),
        ("LOG_LEVEL", "debug", "must be DEBUG, INFO, WARNING or ERROR"),
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
