"""Usage: token counts of one call, reported by the provider or estimated."""

from .base import Value


class Usage(Value, frozen=True, kw_only=True):
    """Token counts of one call, normalized.

    input: includes cached_input and cache_write
    output: includes reasoning
    cache_write_long: part of cache_write that is kept for an hour rather than five minutes
    exact: True only when every count came from the provider
    """

    input: int
    output: int
    cached_input: int = 0
    cache_write: int = 0
    cache_write_long: int = 0
    reasoning: int = 0
    exact: bool = True

    def __post_init__(self) -> None:
        assert self.input >= 0 and self.output >= 0, "token counts are never negative"
        assert 0 <= self.cached_input + self.cache_write <= self.input, "cached input exceeds input"
        assert 0 <= self.cache_write_long <= self.cache_write, "cache_write_long exceeds cache_write"
        assert 0 <= self.reasoning <= self.output, "reasoning exceeds output"


NO_USAGE = Usage(input=0, output=0)
