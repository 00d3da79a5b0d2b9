"""Everybody else (Bedrock, Vertex, Gemini, Azure, Cohere, Mistral, ...), by litellm's names, through its lazy door.

The body is chat completions with litellm's additions; edge/litellm_adapter.py makes the call and answers in OpenAI's
shapes, so that usage and failures read like OpenAI's.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from ..values.catalog import Deployment
from . import openai_compatible
from .call import UpstreamCall

SPEAKS = ("chat", "embeddings")
LEARNT: frozenset[str] = frozenset()
returned = openai_compatible.returned
usage_of = openai_compatible.usage_of
failure_of = openai_compatible.failure_of


def call(
    speech: str, body: tuple[bytes | memoryview, ...], deployment: Deployment, headers: Mapping[str, str]
) -> UpstreamCall:
    """The call for one attempt. Keys and regions lie in the deployment and reach litellm with the call."""
    return UpstreamCall(deployment=deployment, speech=speech, url="", headers={}, body=body)


def passage(
    method: str, path: str, body: tuple[bytes | memoryview, ...], deployment: Deployment, headers: Mapping[str, str]
) -> UpstreamCall:
    """Never called: no other path leads through litellm."""
    raise AssertionError("litellm serves chat and embeddings only")


def finished(document: dict[str, Any], speech: str, deployment: Deployment) -> bytes:
    """The body of a carried request."""
    fitted = {"model": deployment.model, **document}
    if not deployment.reasons:
        fitted.pop("reasoning_effort", None)
    return orjson.dumps(fitted)
