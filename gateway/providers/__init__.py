"""Providers, one upstream API per file. Pure.

Request -> call, answer -> Usage, error status -> failure.
To add a provider: a file like `openai_compatible.py`, a line in PROVIDERS, recorded bytes and a test.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from ..values.catalog import Deployment
from ..values.usage import Usage
from . import anthropic, litellm, openai_compatible
from .failure import ProviderFailure
from .upstream_call import UpstreamCall


class Provider(Protocol):
    """What the gateway needs of a provider; each is a module.

    SUPPORTED_DIALECTS: in order of preference
    OPTIONAL_DIALECTS: those that a compatible server may turn out to lack
    build_call, build_passthrough_call: the HTTP call of one attempt
    with_output_limit: the document with its output limit set
    adapted_body: the body of a translated request, adapted to the deployment, and the names of what was dropped
    returned_headers: the provider's headers that are returned to the caller
    usage_of: normalized usage of an answer, None where it is missing or invalid
    billed_extras_of: what else of Usage an answer sets without token counts
    failure_of: what an error status means
    """

    @property
    def SUPPORTED_DIALECTS(self) -> tuple[str, ...]: ...
    @property
    def OPTIONAL_DIALECTS(self) -> frozenset[str]: ...
    def build_call(
        self, dialect: str, body: tuple[bytes | memoryview, ...], deployment: Deployment, headers: Mapping[str, str]
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
        self, document: dict[str, Any], dialect: str, deployment: Deployment, tokens: int
    ) -> dict[str, Any]: ...
    def adapted_body(
        self, document: dict[str, Any], dialect: str, deployment: Deployment
    ) -> tuple[dict[str, Any], tuple[str, ...]]: ...
    def returned_headers(self, headers: Mapping[str, str]) -> dict[str, str]: ...
    def usage_of(self, answer: Any) -> Usage | None: ...
    def billed_extras_of(self, answer: Any) -> dict[str, Any]: ...
    def failure_of(self, status: int, body: bytes) -> ProviderFailure: ...


PROVIDERS: Mapping[str, Provider] = {
    "openai": openai_compatible,
    "anthropic": anthropic,
    "litellm": litellm,
}
