"""Decisions: what the request looks like, how it was classified, what will be tried, and what was refused."""

from collections.abc import Mapping
from typing import Any

from .base import Value
from .catalog import Deployment


class Bond(Value, frozen=True, kw_only=True):
    """Something in the history that binds the conversation to these providers or models; None binds to none."""

    what: str
    providers: frozenset[str] | None = None
    models: frozenset[str] | None = None


class Facts(Value, frozen=True, kw_only=True):
    """What routing looks at: counts and flags, no prompt text except the bounded word set of the newest turns.

    `input_tokens` is the best estimate, `input_tokens_max` an upper bound that no byte-level tokenizer exceeds.
    `long_cache`: part of the input may be written to a cache that is kept for an hour. `bonds` tie the conversation down.
    """

    input_tokens: int
    input_tokens_max: int
    turns: int
    tool_names: frozenset[str]
    tool_errors: int
    has_images: bool
    has_schema: bool
    code_share: float
    words: frozenset[str]
    newest_chars: int
    long_cache: bool = False
    bonds: tuple[Bond, ...] = ()


class Verdict(Value, frozen=True, kw_only=True):
    """The classifier's opinion: complexity in [0, 1], task type, confidence in the type in [0, 1], and why."""

    complexity: float
    task_type: str
    confidence: float
    reason: str


class Attempt(Value, frozen=True, kw_only=True):
    """One call that may be made: the worst case that is held for it, and why it stands at this place. `speech` is the
    dialect in which the deployment is spoken to.

    `hold_nusd` None means unpriced, `hold_millijoules` None that the weights are unknown. `output_tokens_max` is the
    limit behind the hold, all choices together. `output_limit` is set where a budget lowered the caller's (per choice).
    `tokens_held` are the input and output tokens behind a hold that is what such calls usually take, None where it is
    the worst case.
    """

    deployment: Deployment
    speech: str
    output_tokens_max: int
    hold_nusd: int | None
    hold_millijoules: int | None
    reason: str
    output_limit: int | None = None
    tokens_held: tuple[int, int] | None = None


class Plan(Value, frozen=True, kw_only=True):
    """Attempts in the order in which they are tried; never empty. `struck` says why other candidates are not in it."""

    attempts: tuple[Attempt, ...]
    struck: Mapping[str, str]


class Refusal(Value, frozen=True, kw_only=True):
    """A decision not to serve: which limit, what was used and how to go on.

    `retry_after_seconds` is set only where waiting helps; the status follows from it (docs/errors.md) unless `status`
    says otherwise. `param` names the field of the request that is in the way, if one is.
    """

    code: str
    message: str
    details: Mapping[str, Any] = {}
    retry_after_seconds: int | None = None
    param: str | None = None
    status: int | None = None
