"""Decisions: features of the request, its classification, the plan, refusals."""

from collections.abc import Mapping
from typing import Any

from .base import Value
from .catalog import Deployment
from .usage import STANDARD_TERMS, PriceTerms


class Affinity(Value, frozen=True, kw_only=True):
    """State in the history that binds the conversation to providers or models.

    cause: what binds it
    providers, models: those that remain possible; None: any
    """

    cause: str
    providers: frozenset[str] | None = None
    models: frozenset[str] | None = None


class PromptFeatures(Value, frozen=True, kw_only=True):
    """What the scorer weighs of a prompt.

    words: distinct words, without their order
    dense: numbers, named in routing/prompt_features.py
    """

    words: frozenset[str]
    dense: tuple[float, ...]

    def __repr__(self) -> str:
        # Prompt text is never logged.
        return f"PromptFeatures({len(self.words)} words)"


class RequestFeatures(Value, frozen=True, kw_only=True):
    """What routing looks at: counts, flags and the newest text.

    input_tokens: best estimate
    input_tokens_max: upper bound that no byte-level tokenizer exceeds
    code_share: share of the newest text that looks like code, in [0, 1]
    words: of the newest text
    newest_chars: length of the newest text
    writes_long_cache: part of the input may be written to the one-hour cache
    system_words: words of the system prompt
    agent_fingerprint: hash of system prompt and tools, which identify an agent; 0: neither
    newest_user_text: for counting only, never logged
    tools_head: the first bytes of the tool definitions, likewise
    affinities: what binds the conversation to providers or models
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
    affinities: tuple[Affinity, ...] = ()

    def __repr__(self) -> str:
        # Prompt text is never logged.
        return f"RequestFeatures(input_tokens={self.input_tokens}, turns={self.turns})"


class Classification(Value, frozen=True, kw_only=True):
    """The classifier's result for one request.

    complexity: calibrated probability that the small tier does not suffice, in [0, 1]
    confidence: in the task type, in [0, 1]
    reason: why, for the ledger
    role: the role of its agent; "": none
    scorer: name of the scorer that made `features`
    features: input of the correction learned from own traffic; None: not scored
    log_odds_shift: what rules added to the log-odds
    uncorrected_complexity: complexity without the learned correction, comparable from fit to fit
    """

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
    """One call of a plan, with what is held for it.

    upstream_dialect: dialect in which the deployment is called
    output_tokens_max: output limit behind the hold, all choices together
    price_terms: what it may cost besides tokens
    added_tokens: (input, output) tokens that the provider's tools and further calls may add
    hold_nusd: None: unpriced
    unpriced: why, "" where it has a price
    stripped_fields: fields of the body that do not reach the deployment
    hold_millijoules: None: the weights are unknown
    reason: why it is at this place of the plan
    output_limit: set where a budget lowered the caller's limit, per choice
    expected_tokens: (input, output) tokens behind an expected hold; None: the worst case is held
    """

    deployment: Deployment
    upstream_dialect: str
    output_tokens_max: int
    hold_nusd: int | None
    hold_millijoules: int | None
    reason: str
    output_limit: int | None = None
    expected_tokens: tuple[int, int] | None = None
    price_terms: PriceTerms = STANDARD_TERMS
    added_tokens: tuple[int, int] = (0, 0)
    unpriced: str = ""
    stripped_fields: tuple[str, ...] = ()


class Plan(Value, frozen=True, kw_only=True):
    """The attempts in order; never empty.

    excluded: why each other candidate is not among them
    """

    attempts: tuple[Attempt, ...]
    excluded: Mapping[str, str]


class Refusal(Value, frozen=True, kw_only=True):
    """A decision not to serve: which limit, what was used and what to do next.

    details: figures for the caller
    retry_after_seconds: set only where waiting helps
    param: the field of the request at fault
    status: HTTP status; None: it follows from the dialect and `retry_after_seconds` (docs/errors.md)
    """

    code: str
    message: str
    details: Mapping[str, Any] = {}
    retry_after_seconds: int | None = None
    param: str | None = None
    status: int | None = None
