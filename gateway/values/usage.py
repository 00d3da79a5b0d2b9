"""Usage: token counts of one call, reported by the provider or estimated."""

from collections.abc import Iterable

from .base import Value

# Service tiers by their effect on the price; a provider's own names are mapped to these. "": the standard tier.
# fast: Anthropic's `speed`; OpenAI's service tier `fast` is its former `priority`.
SERVICE_TIERS = ("", "flex", "balanced", "priority", "ultrafast", "batch", "fast")
# Units of tools that providers run and bill by the call.
SERVER_TOOLS = (
    "web_search", "web_fetch", "file_search", "code_execution", "image_generation", "computer_use", "x_search",
    "collections_search", "maps_grounding",
)  # fmt: skip


class FurtherCall(Value, frozen=True, kw_only=True):
    """A model call that the provider made within the same request: compaction, an advisor, a fallback.

    model: the model that ran, "" for the request's own
    kind: the provider's name for it
    usage: its tokens; of the request's own model they are part of the request's totals
    """

    model: str
    kind: str
    usage: "Usage"


class Usage(Value, frozen=True, kw_only=True):
    """Token counts of one call, normalized.

    input: includes cached_input, cache_write, input_audio and input_image
    output: includes reasoning, output_audio and output_image
    cache_write_long: part of cache_write that is kept for an hour rather than five minutes
    input_audio, input_image: parts of input
    cached_audio, cached_image: parts of cached_input; parts of input_audio and input_image
    output_audio, output_image: parts of output
    exact: True only when every count came from the provider
    service_tier: the tier that the answer names, one of SERVICE_TIERS
    inference_geo: the region that the answer names, "" for none
    server_tools: (unit, count) of tools that the provider ran and bills by the call
    further_calls: calls within the request that are priced by themselves
    reported_cost_nusd: the cost that the provider reports, nUSD; None: not reported
    """

    input: int
    output: int
    cached_input: int = 0
    cache_write: int = 0
    cache_write_long: int = 0
    reasoning: int = 0
    input_audio: int = 0
    cached_audio: int = 0
    input_image: int = 0
    cached_image: int = 0
    output_audio: int = 0
    output_image: int = 0
    exact: bool = True
    service_tier: str = ""
    inference_geo: str = ""
    server_tools: tuple[tuple[str, int], ...] = ()
    further_calls: tuple[FurtherCall, ...] = ()
    reported_cost_nusd: int | None = None

    @property
    def has_output(self) -> bool:
        """Whether any output is counted, if only that of a further call."""
        return self.output > 0 or bool(self.further_calls)

    def __post_init__(self) -> None:
        assert self.input >= 0 and self.output >= 0, "token counts are never negative"
        assert 0 <= self.cached_input + self.cache_write <= self.input, "cached input exceeds input"
        assert 0 <= self.cache_write_long <= self.cache_write, "cache_write_long exceeds cache_write"
        assert 0 <= self.reasoning <= self.output, "reasoning exceeds output"
        assert 0 <= self.input_audio + self.input_image <= self.input, "audio and images exceed input"
        assert 0 <= self.cached_audio <= self.input_audio, "cached_audio exceeds input_audio"
        assert 0 <= self.cached_image <= self.input_image, "cached_image exceeds input_image"
        assert self.cached_audio + self.cached_image <= self.cached_input, "cached audio and images exceed cached_input"
        assert 0 <= self.output_audio + self.output_image <= self.output, "audio and images exceed output"


NO_USAGE = Usage(input=0, output=0)
# Names of the token counts of Usage.
COUNTS = tuple(name for name in Usage.__struct_fields__ if Usage.__annotations__[name] is int)


def sum_of_counts(usages: Iterable[Usage]) -> Usage:
    """The token counts of several calls together, and nothing else of them."""
    usages = tuple(usages)
    counts = {name: sum(getattr(usage, name) for usage in usages) for name in COUNTS}
    return Usage(**counts, exact=all(usage.exact for usage in usages))


class FurtherCallTerms(Value, frozen=True, kw_only=True):
    """Calls that the provider may add to a request.

    model: the model that runs, "" for the request's own
    kind: what they are for: compaction, advisor, fallback, image_generation
    calls_max: how many at most
    input_tokens_max: input tokens of each; 0: the whole conversation
    output_tokens_max: output tokens of each; 0: as many as the model writes
    """

    model: str
    kind: str
    calls_max: int = 1
    input_tokens_max: int = 0
    output_tokens_max: int = 0


class PriceTerms(Value, frozen=True, kw_only=True):
    """What a request asks for that changes its price beyond tokens.

    service_tiers: the tiers that it may be served at: of SERVICE_TIERS, else the caller's own word, which has no price
    inference_geo: the region that it asks for, "" for none
    server_tools: (unit, most calls) of tools that run at the provider
    tool_tokens_max: input tokens that instructions and results of these tools may add
    search_context_size: low, medium or high, by which some models price a web search; "" for the provider's default
    has_audio_input, has_audio_output: whether it sends or asks for audio
    has_image_output: whether it asks for images
    further_calls: calls that the provider may add
    """

    service_tiers: tuple[str, ...] = ("",)
    inference_geo: str = ""
    server_tools: tuple[tuple[str, int], ...] = ()
    tool_tokens_max: int = 0
    search_context_size: str = ""
    has_audio_input: bool = False
    has_audio_output: bool = False
    has_image_output: bool = False
    further_calls: tuple[FurtherCallTerms, ...] = ()


STANDARD_TERMS = PriceTerms()
