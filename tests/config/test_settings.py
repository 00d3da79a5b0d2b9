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
    assert "unknown variable PENSTOCK_PROT" in text
    assert "PENSTOCK_PORT" in text
    assert "PENSTOCK_KEY_MINE" not in text


def test_an_env_file_is_read_only_if_it_is_named(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("PENSTOCK_PORT=1234\n")
    monkeypatch.chdir(tmp_path)
    assert read_settings().port == 8080
    monkeypatch.setenv("PENSTOCK_ENV_FILE", str(tmp_path / ".env"))
    assert read_settings().port == 1234
