"""Process settings from PENSTOCK_* environment variables; no .env file is read unless PENSTOCK_ENV_FILE names one."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ..feeds.package_data import is_installed
from ..http.cors import origins_of
from ..http.proxies import InvalidProxy, Proxies, read_proxies
from ..values.errors import ConfigError
from ..values.extras import install_hint
from .messages import quoted, requirement
from .reader import SECRET_CHARS_MIN

PREFIX = "PENSTOCK_"
# Variables of the commands that call a running gateway.
_CLI_VARIABLES = {"PENSTOCK_URL"}
_REDIS_SCHEMES = ("redis://", "rediss://", "redis+cluster://", "rediss+cluster://")
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[^/?#\s@,:\[\]]*)(?::\d{1,5})?"
_REDIS_URL = re.compile(rf"[a-z+]+://(?:[^/?#\s]*@)?{_HOST}(?:,{_HOST})*(?:[/?][^\s#]*)?")
_URL, _COUNTRY, _LOG_LEVEL = r"^https?://[^\s?#]+$", "^[A-Z]{3}$", "^(DEBUG|INFO|WARNING|ERROR)$"
# What a text should look like that does not match.
_PATTERN_MEANINGS = {
    _URL: "an http:// or https:// URL without query or fragment",
    _COUNTRY: "three capital letters, like USA",
    _LOG_LEVEL: "DEBUG, INFO, WARNING or ERROR",
}


class Settings(BaseSettings):
    """How this process runs; what it serves is in routing.yaml."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    config: Path = Field(Path("config/routing.yaml"), description="Routing file.")
    data: Path = Field(Path("var"), description="Folder of the ledger and its journal.")
    host: str = Field("127.0.0.1", description="Address that the gateway listens on.")
    port: int = Field(8080, ge=0, le=65535, description="Port that the gateway listens on; 0 for any free port.")
    admin_port: int | None = Field(
        None, ge=0, le=65535, description="Separate port for /metrics, /export and /admin. Unset: on `PENSTOCK_PORT`."
    )
    admin_token: SecretStr | None = Field(
        None,
        description="Bearer token for /export and /admin. Unset: both are served on a loopback address only, and changes "
        "are refused.",
    )
    approval_secret: SecretStr | None = Field(
        None,
        min_length=SECRET_CHARS_MIN,
        description="Key that signs approval links, at least 16 characters; the same for all replicas. "
        "Unset: a key in the data folder.",
    )
    public_url: str | None = Field(
        None,
        pattern=_URL,
        description="URL of this gateway in approval links. Unset: the address that it listens on.",
    )
    body_bytes_max: int = Field(32 * 1024 * 1024, gt=0, description="Largest request body, in bytes.")
    concurrent_requests_max: int = Field(
        10_000, gt=0, description="Requests in flight at once; further ones are answered with 503."
    )
    drain_seconds: float = Field(
        120.0, ge=0, description="Seconds that open streams have to end after SIGTERM or Ctrl-C."
    )
    cors_origins: str = Field(
        "",
        description="Origins of web pages that may call the API from a browser, like `https://app.example.com`, separated "
        "by commas; `*` for any. Empty: none.",
    )
    proxy: SecretStr | None = Field(
        None,
        description="Forward proxy of calls to providers, feeds and the webhook, like `http://proxy:3128`, or `none`. Unset: "
        "`HTTP_PROXY`, `HTTPS_PROXY` and `ALL_PROXY`. `NO_PROXY` and loopback addresses are called directly.",
    )
    redis_url: SecretStr | None = Field(
        None,
        description="Redis or Valkey of budgets and sessions shared by replicas: `redis://host:6379/0`, or "
        "`redis+cluster://host1:6379,host2:6379`. Unset: kept in this process.",
    )
    redis_timeout_seconds: float = Field(
        0.05, gt=0, le=5, description="Seconds after which the shared store counts as down, at most 5."
    )
    measure_own_energy: bool = Field(
        False, description="Measure the energy of the gateway itself with CodeCarbon (an extra)."
    )
    own_energy_country: str = Field(
        "USA", pattern=_COUNTRY, description="Country of the gateway's own machine, ISO alpha-3."
    )
    log_level: str = Field("INFO", pattern=_LOG_LEVEL, description="Lowest level that is logged: DEBUG to ERROR.")
    env_file: Path | None = Field(None, description="File with further `PENSTOCK_*` lines. Unset: none is read.")

    @field_validator("admin_token", mode="before")
    @classmethod
    def _unset_if_blank(cls, token: Any) -> Any:
        """An empty token, as of `PENSTOCK_ADMIN_TOKEN=${UNSET}`, would admit every request without one."""
        return (token.strip() or None) if isinstance(token, str) else token

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: str) -> str:
        origins_of(origins)
        return origins

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(_REDIS_SCHEMES):
            raise ValueError(f"must begin with {', '.join(_REDIS_SCHEMES[:-1])} or {_REDIS_SCHEMES[-1]}")
        if url is not None and _REDIS_URL.fullmatch(url.get_secret_value()) is None:
            raise ValueError(
                "must be like redis://user:password@host:6379/0, with '/', '?' and '#' of a password encoded"
            )
        return url


def read_settings() -> Settings:
    """Settings from the environment. Raises ConfigError, for unknown PENSTOCK_* variables as well."""
    env = os.environ
    names = {PREFIX + name.upper() for name in Settings.model_fields}
    # Secrets of callers may be in variables of any name, PENSTOCK_KEY_* among them.
    unknown = sorted(
        name
        for name in env
        if name.startswith(PREFIX) and name not in names | _CLI_VARIABLES and not name.startswith(PREFIX + "KEY_")
    )
    problems = [
        f"environment: unknown variable {name}{_suggestion(name, names)}; known variables: {', '.join(sorted(names))}"
        for name in unknown
    ]
    try:
        settings = Settings(_env_file=env.get(PREFIX + "ENV_FILE"))
    except ValidationError as error:
        problems += [
            f"environment: {PREFIX}{'_'.join(str(part) for part in item['loc']).upper()} {_requirement(item)}"
            for item in error.errors(include_url=False)
        ]
    if problems:
        raise ConfigError(problems)
    return settings


def _suggestion(name: str, names: set[str]) -> str:
    """The closest name, as `; did you mean X?`; empty where none is close."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    return f"; did you mean {close[0]}?" if close else ""


def _requirement(item: Any) -> str:
    """What a variable should be, as the end of a sentence that begins with its name."""
    if item["type"] == "int_parsing":
        return f"must be a whole number, not {quoted(item['input'])}"
    if item["type"] == "string_pattern_mismatch":
        return f"must be {_PATTERN_MEANINGS[item['ctx']['pattern']]}"
    if item["type"] == "too_short":
        return f"must have at least {item['ctx']['min_length']} characters"
    # Any other value may be a secret.
    return str(item["ctx"]["error"]) if item["type"] == "value_error" else requirement(item["msg"])


def weak_setting_notes(env: Mapping[str, str]) -> list[str]:
    """Notes on secrets of the process that can be guessed."""
    token = env.get(f"{PREFIX}ADMIN_TOKEN", "").strip()
    if not token or len(token) >= SECRET_CHARS_MIN:
        return []
    return [f"environment: {PREFIX}ADMIN_TOKEN has fewer than {SECRET_CHARS_MIN} characters and can be guessed"]


def proxies_of(settings: Settings, environment: Mapping[str, str]) -> Proxies:
    """The forward proxies of this process."""
    return read_proxies(settings.proxy.get_secret_value() if settings.proxy is not None else None, environment)


def require_proxies(settings: Settings, urls: Iterable[str], environment: Mapping[str, str]) -> None:
    """Check that the proxies which calls to these URLs need can be used. Raises ConfigError."""
    proxies, problems = proxies_of(settings, environment), set()
    for url in urls:
        try:
            proxies.proxy_of(url)
        except InvalidProxy as error:
            problems.add(f"environment: {error}; {PREFIX}PROXY=none calls providers directly")
    if problems:
        raise ConfigError(sorted(problems))


def require_extras(settings: Settings) -> None:
    """Check that the packages which serving with these settings needs are installed. Raises ConfigError."""
    wanted = {
        "REDIS_URL": ("redis", settings.redis_url),
        "MEASURE_OWN_ENERGY": ("codecarbon", settings.measure_own_energy),
    }
    problems = [
        f"environment: {PREFIX}{name}: {install_hint(package)}"
        for name, (package, value) in wanted.items()
        if value and not is_installed(package)
    ]
    if problems:
        raise ConfigError(problems)
