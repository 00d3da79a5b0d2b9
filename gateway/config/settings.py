"""Process settings from PENSTOCK_* environment variables; no .env file is read unless PENSTOCK_ENV_FILE names one."""

import os
from pathlib import Path

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ..values.errors import ConfigError

PREFIX = "PENSTOCK_"
# What the commands read that ask a gateway.
_CLI_VARIABLES = {"PENSTOCK_URL"}


class Settings(BaseSettings):
    """How this process runs; what it does stands in routing.yaml."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    config: Path = Field(Path("config/routing.yaml"), description="the routing file")
    data: Path = Field(Path("var"), description="folder of the ledger and its journal")
    host: str = Field("127.0.0.1", description="address that callers reach")
    port: int = Field(8080, ge=0, le=65535, description="port that callers reach; 0 picks one")
    admin_port: int | None = Field(None, ge=0, le=65535, description="own port for /metrics and /export")
    admin_token: SecretStr | None = Field(
        None, description="bearer token for /export and /admin beyond this machine, and for every grant"
    )
    approval_secret: SecretStr | None = Field(
        None,
        min_length=16,
        description="signs the links that let stopped sessions go on; unset: one made in the data folder",
    )
    public_url: str | None = Field(
        None, pattern=r"^https?://[^\s?#]+$", description="where people reach this gateway, for those links"
    )
    body_bytes_max: int = Field(32 * 1024 * 1024, gt=0, description="largest request body in bytes")
    calls_max: int = Field(10_000, gt=0, description="calls in flight at once; more are answered 503")
    drain_seconds: float = Field(120.0, ge=0, description="how long open streams may go on after SIGTERM")
    redis_url: SecretStr | None = Field(
        None,
        description="redis:// (or redis+cluster://, hosts by commas) of budgets shared by replicas; unset: in this process",
    )
    redis_timeout_seconds: float = Field(
        0.05, gt=0, le=5, description="a shared store that needs longer for an answer is taken to be down"
    )
    measure_self: bool = Field(False, description="measure the gateway's own energy with CodeCarbon")
    self_country: str = Field("USA", pattern="^[A-Z]{3}$", description="grid of the gateway's own machine, ISO alpha-3")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="least level that is logged")
    env_file: Path | None = Field(None, description="file of further PENSTOCK_* lines")


def read_settings() -> Settings:
    """Settings from the environment. Raises ConfigError; unknown PENSTOCK_* names are mistakes too."""
    env = os.environ
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    # Keys of callers and providers live in variables of any name; only our own prefix without `_KEY_` is ours.
    unknown = sorted(
        name
        for name in env
        if name.startswith(PREFIX) and name not in known | _CLI_VARIABLES and not name.startswith(PREFIX + "KEY_")
    )
    complaints = [f"environment: unknown variable {name}; known are {', '.join(sorted(known))}" for name in unknown]
    try:
        settings = Settings(_env_file=env.get(PREFIX + "ENV_FILE"))  # type: ignore[call-arg]
    except ValidationError as error:
        complaints += [
            f"environment: {PREFIX}{'_'.join(str(part) for part in problem['loc']).upper()}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        ]
    if complaints:
        raise ConfigError(complaints)
    return settings
