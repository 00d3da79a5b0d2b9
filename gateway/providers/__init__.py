"""One upstream dialect per file: request -> call, usage -> Usage, failure -> outcome. Pure.

To add a provider: a file like `openai_compatible.py`, a line here, recorded bytes and a test.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from ..values.catalog import Deployment
from ..values.usage import Usage
from . import anthropic, litellm, openai_compatible
from .upstream_call import ProviderFailure, UpstreamCall


class Provider(Protocol):
    """What the gateway needs of a provider; each is a module.

    `SPEAKS` are dialects in the order of preference; of those in LEARNT it may turn out that this server lacks them.
    """

    @property
    def SUPPORTED_DIALECTS(self) -> tuple[str, ...]: ...
    @property
    def OPTIONAL_DIALECTS(self) -> frozenset[str]: ...
    def build_call(
        self, speech: str, body: tuple[bytes | memoryview, ...], deployment: Deployment, headers: Mapping[str, str]
    ) -> UpstreamCall: ...
    def build_passthrough_call(
        self,
        method: str,
        path: str,
        body: tuple[bytes | memoryview, ...],
        deployment: Deployment,
        headers: Mapping[str, str],
    ) -> UpstreamCall: ...
    def with_output_limit(
        self, document: dict[str, Any], speech: str, deployment: Deployment, tokens: int
    ) -> dict[str, Any]: ...
    def encode_body(self, document: dict[str, Any], speech: str, deployment: Deployment) -> bytes: ...
    def returned_headers(self, headers: Mapping[str, str]) -> dict[str, str]: ...
    def usage_of(self, usage: Any) -> Usage | None: ...
    def failure_of(self, status: int, body: bytes) -> ProviderFailure: ...


PROVIDERS: Mapping[str, Provider] = {
    "openai": openai_compatible,
    "anthropic": anthropic,
    "litellm": litellm,
}
