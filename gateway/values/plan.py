"""Decisions: what the request looks like, how it was classified, what will be tried, and what was refused."""

from collections.abc import Mapping
from typing import Any

from .base import Value
from .catalog import Deployment


class Affinity(Value, frozen=True, kw_only=True):
    """Something in the history that binds the conversation to these providers or models; None binds to none."""

    cause: str
    providers: frozenset[str] | None = None
    models: frozenset[str] | None = None


class PromptFeatures(Value, frozen=True, kw_only=True):
    """What the scorer weighs of a prompt: words without their order, and numbers (routing/features.py names them)."""

    words: frozenset[str]
    dense: tuple[float, ...]

    def __repr__(self) -> str:
        # Words of prompts belong in no log.
        return f"Features({len(self.words)} words)"


class RequestFeatures(Value, frozen=True, kw_only=True):
    """What routing looks at: counts and flags, and the newest text to take more from.

    `input_tokens` is the best estimate, `input_tokens_max` an upper bound that no byte-level tokenizer exceeds.
    `long_cache`: part of the input may be written to a cache that is kept for an hour. `bonds` tie the conversation down.
    `fingerprint` is of what an agent's makers gave it, system prompt and tools (0 for neither). `prompt` is the newest user text
    and `tools` the head of what describes the tools, both only to be counted in and never to be shown.
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
    writes_long_cache: bool = False
    system_words: frozenset[str] = frozenset()
    agent_fingerprint: int = 0
    newest_user_text: str = ""
    tools_head: bytes = b""
    bonds: tuple[Affinity, ...] = ()

    def __repr__(self) -> str:
        # Prompts belong in no log.
        return f"Facts(input_tokens={self.input_tokens}, turns={self.turns})"


class Classification(Value, frozen=True, kw_only=True):
    """The classifier's opinion: complexity in [0, 1], task type, confidence in the type in [0, 1], and why; `role` is the
    part that its agent plays, "" for none. `features` are what a correction learnt from own traffic weighs, made by the
    `scorer` of that name, `moved` what all else moved its log-odds by, `untaught` the
    complexity without such a correction: it stays the same from fit to fit."""

    complexity: float
    task_type: str
    confidence: float
    reason: str
    role: str = ""
    scorer: str = ""
    features: PromptFeatures | None = None
    log_odds_shift: float = 0.0
    uncorrected_complexity: float = 0.0


class Attempt(Value, frozen=True, kw_only=True):
    """One call that may be made: the worst case that is held for it, and why it stands at this place. `speech` is the
    dialect in which the deployment is spoken to.

    `hold_nusd` None means unpriced, `hold_millijoules` None that the weights are unknown. `output_tokens_max` is the
    limit behind the hold, all choices together. `output_limit` is set where a budget lowered the caller's (per choice).
    `tokens_held` are the input and output tokens behind a hold that is what such calls usually take, None where it is
    the worst case.
    """

    deployment: Deployment
    upstream_dialect: str
    output_tokens_max: int
    hold_nusd: int | None
    hold_millijoules: int | None
    reason: str
    output_limit: int | None = None
    expected_tokens: tuple[int, int] | None = None


class Plan(Value, frozen=True, kw_only=True):
    """Attempts in the order in which they are tried; never empty. `struck` says why other candidates are not in it."""

    attempts: tuple[Attempt, ...]
    excluded: Mapping[str, str]


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
