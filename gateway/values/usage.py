"""Usage: how many tokens one call took, as the provider says or as we estimate."""

from .base import Value


class Usage(Value, frozen=True, kw_only=True):
    """Token counts of one call, normalised: cached_input and cache_write lie within input, reasoning within output.

    `cache_write_long` is the part of cache_write that was written for an hour rather than five minutes.
    `exact` is True only when every count came from the provider.
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
        assert 0 <= self.cached_input + self.cache_write <= self.input, "cached input lies within input"
        assert 0 <= self.cache_write_long <= self.cache_write, "what is kept for an hour was written"
        assert 0 <= self.reasoning <= self.output, "reasoning lies within output"


NO_USAGE = Usage(input=0, output=0)
