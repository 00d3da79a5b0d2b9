"""How providers spell usage, and where they put it: one table for native and translated answers. Pure.

A spelling is a key of the usage object, or of a group within it; the table names the count that it stands for. Of two
spellings of one count the larger one is taken, so that a zero never hides a figure. Recorded answers of the providers
named beside the spellings: pydantic/pydantic-ai tests/**/cassettes, vercel/ai packages/*/src/**/__fixtures__ and
envoyproxy/ai-gateway tests/internal/testopenai, as of 2026-08-22; others by the provider's documentation.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from ..values.usage import Usage

# No model reads or writes a hundred million tokens in one call: a larger count is invalid, and usage is estimated.
_TOKENS_MAX = 100_000_000
# Characters of a count that is sent as text.
_COUNT_CHARS_MAX = 24

# The counts. Caches "beside" are not part of the input, wherever the provider says so.
_INPUT, _OUTPUT, _TOTAL, _REASONING = "input", "output", "total", "reasoning"
_CACHED, _CACHED_BESIDE = "cached", "cached_beside"
_CACHED_AUDIO, _CACHED_IMAGE = "cached_audio", "cached_image"
_WRITTEN, _WRITTEN_BESIDE, _WRITTEN_SHORT, _WRITTEN_LONG = "written", "written_beside", "written_short", "written_long"
_INPUT_AUDIO, _INPUT_IMAGE, _OUTPUT_AUDIO, _OUTPUT_IMAGE = "input_audio", "input_image", "output_audio", "output_image"
_INPUT_BESIDE, _REASONING_BESIDE, _AUDIO_SECONDS = "input_beside", "reasoning_beside", "audio_seconds"

_TOTALS = frozenset({_INPUT, _OUTPUT, _TOTAL})

_BY_LIFETIME = {"ephemeral_5m_input_tokens": _WRITTEN_SHORT, "ephemeral_1h_input_tokens": _WRITTEN_LONG}
_INPUT_DETAILS: Mapping[str, Any] = {
    "cached_tokens": _CACHED,
    "cache_read_tokens": _CACHED,
    "cache_read_input_tokens": _CACHED,  # Perplexity
    "cached_tokens_details": {"audio_tokens": _CACHED_AUDIO, "image_tokens": _CACHED_IMAGE},
    "cache_write_tokens": _WRITTEN,  # OpenAI, OpenRouter
    "cache_creation_tokens": _WRITTEN,  # litellm
    "cache_creation_input_tokens": _WRITTEN,  # Alibaba
    "cache_creation_token_details": _BY_LIFETIME,  # litellm
    "cache_creation": _BY_LIFETIME,  # Alibaba
    "audio_tokens": _INPUT_AUDIO,
    "image_tokens": _INPUT_IMAGE,
}
_OUTPUT_DETAILS: Mapping[str, Any] = {
    "reasoning_tokens": _REASONING,
    "thinking_tokens": _REASONING,  # Anthropic
    "audio_tokens": _OUTPUT_AUDIO,
    "image_tokens": _OUTPUT_IMAGE,
}
_SPELLINGS: Mapping[str, Any] = {
    # Chat completions, completions, embeddings.
    "prompt_tokens": _INPUT,
    "completion_tokens": _OUTPUT,
    "total_tokens": _TOTAL,
    "prompt_tokens_details": _INPUT_DETAILS,
    "completion_tokens_details": _OUTPUT_DETAILS,
    "prompt_token_details": _INPUT_DETAILS,  # Mistral has both spellings
    "completion_token_details": _OUTPUT_DETAILS,
    "audio_prompt_tokens": _INPUT_AUDIO,  # Azure
    # Responses, Messages, images, transcriptions; the last use both spellings of the groups.
    "input_tokens": _INPUT,
    "output_tokens": _OUTPUT,
    "input_tokens_details": _INPUT_DETAILS,
    "input_token_details": _INPUT_DETAILS,
    "output_tokens_details": _OUTPUT_DETAILS,
    "output_token_details": _OUTPUT_DETAILS,
    # Caches at the top level.
    "cached_tokens": _CACHED,  # Moonshot, Together
    "num_cached_tokens": _CACHED,  # Mistral
    "prompt_cache_hit_tokens": _CACHED,  # DeepSeek
    "cache_read_input_tokens": _CACHED_BESIDE,  # Anthropic; litellm and Databricks beside prompt_tokens
    "cache_creation_input_tokens": _WRITTEN_BESIDE,
    "cache_creation": _BY_LIFETIME,
    # Reasoning at the top level: a part of the output (SGLang), or beside it (Perplexity's deep research).
    "reasoning_tokens": _REASONING_BESIDE,
    # Perplexity bills the text of cited pages at the rate of the input.
    "citation_tokens": _INPUT_BESIDE,
    # Mistral counts audio by the second; its tokens are in the total only.
    "prompt_audio_seconds": _AUDIO_SECONDS,
    # Cohere bills less than it reads (`tokens`).
    "billed_units": {"input_tokens": _INPUT, "output_tokens": _OUTPUT},
    # Bedrock.
    "inputTokens": _INPUT,
    "outputTokens": _OUTPUT,
    "totalTokens": _TOTAL,
    "cacheReadInputTokens": _CACHED_BESIDE,
    "cacheWriteInputTokens": _WRITTEN_BESIDE,
}


# Choices that are read: Groq puts usage into `x_groq`, Moonshot into each choice.
_CHOICES_MAX = 128
# Levels of groups in a usage object that are merged; the table is no deeper.
_DEPTH_MAX = 3
# Names of one that are kept of a stream; recorded ones have twenty.
_NAMES_MAX = 128


def token_count(value: Any) -> int | None:
    """A valid count, None for anything else. Fractions count as one, text as the number it holds."""
    if type(value) is int:
        return value if 0 <= value <= _TOKENS_MAX else None
    if isinstance(value, str) and len(value) <= _COUNT_CHARS_MAX:
        try:
            value = float(value)
        except ValueError:
            return None
    # No comparison with NaN is true.
    return math.ceil(value) if isinstance(value, float) and 0 <= value <= _TOKENS_MAX else None


def usage_objects_of(answer: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the usage objects of a whole answer, or of a chunk, from each place where a provider puts one."""
    for place in (answer, answer.get("x_groq")):
        usage = place.get("usage") if isinstance(place, dict) else None
        if isinstance(usage, dict):
            yield usage
    choices = answer.get("choices")
    parts = [
        choice["usage"]
        for choice in (choices[:_CHOICES_MAX] if isinstance(choices, list) else ())
        if isinstance(choice, dict) and isinstance(choice.get("usage"), dict)
    ]
    if parts:
        yield _sum_of_choices(parts)


def merged_usage(earlier: Any, later: dict[str, Any], *, depth: int = _DEPTH_MAX) -> dict[str, Any]:
    """A stream's usage object after a further one: later counts replace earlier ones.

    A count that is missing, invalid or zero is a placeholder: it never replaces a figure.
    """
    if not isinstance(earlier, dict):
        return later if len(later) <= _NAMES_MAX else dict(islice(later.items(), _NAMES_MAX))
    merged = dict(earlier)
    for name, value in islice(later.items(), _NAMES_MAX):
        before = merged.get(name)
        if before is None and len(merged) >= _NAMES_MAX:
            continue
        if isinstance(value, dict) and isinstance(before, dict) and depth > 1:
            merged[name] = merged_usage(before, value, depth=depth - 1)
        elif value is not None and (token_count(value) or not token_count(before)):
            merged[name] = value
    return merged


def read_usage(usage: Mapping[str, Any], *, caches_beside_input: bool = False) -> Usage | None:
    """The counts of a usage object; None where it reports none.

    caches_beside_input: the provider counts cache reads and writes in addition to the input, as Anthropic does

    Where only the input or only the output is reported the other one is 0, and the usage is not exact. xAI and Gemini's
    compatible API count reasoning beside the output: it is what the total exceeds input and output by.
    """
    counts: dict[str, int] = {}
    _read(usage, _SPELLINGS, counts)
    if counts.keys() <= _TOTALS and len(counts) > 1:
        input_, output = counts.get(_INPUT, 0), counts.get(_OUTPUT, 0)
        if _INPUT in counts and _OUTPUT in counts and counts.get(_TOTAL, input_ + output) == input_ + output:
            # Usual answers: text only, no cache.
            return Usage(input=input_, output=output) if input_ + output else None
    input_, output, exact = _input_and_output(counts)
    cached = max(counts.get(_CACHED, 0), counts.get(_CACHED_BESIDE, 0))
    written_long = counts.get(_WRITTEN_LONG, 0)
    written = max(counts.get(_WRITTEN, 0), counts.get(_WRITTEN_BESIDE, 0), counts.get(_WRITTEN_SHORT, 0) + written_long)
    reasoning, input_audio = counts.get(_REASONING, 0), counts.get(_INPUT_AUDIO, 0)
    if caches_beside_input:
        input_ += cached + written
        reasoning = max(reasoning, counts.get(_REASONING_BESIDE, 0))
    else:
        input_, input_audio, surplus = _with_input_beside(counts, input_, output, input_audio)
        output, reasoning = _with_reasoning_beside(counts, output, reasoning, surplus)
    if input_ + output == 0:
        return None
    cached = min(cached, input_)
    written = min(written, input_ - cached)
    input_audio, output_audio = min(input_audio, input_), min(counts.get(_OUTPUT_AUDIO, 0), output)
    input_image = min(counts.get(_INPUT_IMAGE, 0), input_ - input_audio)
    cached_audio = min(counts.get(_CACHED_AUDIO, 0), cached, input_audio)
    return Usage(
        input=input_,
        output=output,
        cached_input=cached,
        cache_write=written,
        cache_write_long=min(written_long, written),
        reasoning=min(reasoning, output),
        input_audio=input_audio,
        cached_audio=cached_audio,
        input_image=input_image,
        cached_image=min(counts.get(_CACHED_IMAGE, 0), cached - cached_audio, input_image),
        output_audio=output_audio,
        output_image=min(counts.get(_OUTPUT_IMAGE, 0), output - output_audio),
        exact=exact,
    )


def _read(values: Mapping[str, Any], spellings: Mapping[str, Any], counts: dict[str, int]) -> None:
    """Add the counts of a group to `counts`, of each the largest."""
    for name, value in values.items():
        meaning = spellings.get(name)
        if meaning is None:
            continue
        if type(meaning) is not str:
            if isinstance(value, dict):
                _read(value, meaning, counts)
            continue
        if value == 0 and meaning not in _TOTALS:
            continue
        count = token_count(value)
        if count is not None:
            counts[meaning] = max(count, counts.get(meaning, 0))


def _input_and_output(counts: Mapping[str, int]) -> tuple[int, int, bool]:
    """Input and output, and whether both are reported; one of them follows from the other and the total."""
    input_, output, total = counts.get(_INPUT), counts.get(_OUTPUT), counts.get(_TOTAL)
    if total is not None and (input_ is None or output is None):
        # Embeddings and rerankings have no output, and some report the total alone (Voyage).
        if input_ is None:
            input_ = max(0, total - (output or 0))
        output = max(0, total - input_) if output is None else output
    return input_ or 0, output or 0, input_ is not None and output is not None


def _with_input_beside(counts: Mapping[str, int], input_: int, output: int, input_audio: int) -> tuple[int, int, int]:
    """Input and its audio with what is counted beside them, and by how much the total exceeds input and output."""
    surplus = max(0, counts.get(_TOTAL, 0) - input_ - output)
    caches = counts.get(_CACHED_BESIDE, 0) + counts.get(_WRITTEN_BESIDE, 0)
    if caches and (caches > input_ or caches == surplus):
        input_, surplus = input_ + caches, max(0, surplus - caches)
    else:
        # More than the input is no part of it, whatever the spelling; the total confirms it.
        caches = counts.get(_CACHED, 0) + max(
            counts.get(_WRITTEN, 0), counts.get(_WRITTEN_SHORT, 0) + counts.get(_WRITTEN_LONG, 0)
        )
        if input_ < caches <= surplus:
            input_, surplus = input_ + caches, surplus - caches
    beside = counts.get(_INPUT_BESIDE, 0)
    if beside:
        input_, surplus = input_ + beside, max(0, surplus - beside)
    if counts.get(_AUDIO_SECONDS):
        input_, input_audio, surplus = input_ + surplus, input_audio + surplus, 0
    return input_, input_audio, surplus


def _with_reasoning_beside(counts: Mapping[str, int], output: int, reasoning: int, surplus: int) -> tuple[int, int]:
    """Output and reasoning, the output with reasoning that is counted beside it."""
    at_top = counts.get(_REASONING_BESIDE, 0)
    if at_top > reasoning and (at_top > output or _INPUT_BESIDE in counts):
        return output + at_top, at_top
    reasoning = max(reasoning, at_top)
    if surplus and surplus >= reasoning:
        return output + surplus, surplus
    if reasoning > output and _TOTAL not in counts:
        return output + reasoning, reasoning
    return output, reasoning


def _sum_of_choices(usages: list[dict[str, Any]]) -> dict[str, Any]:
    """One usage object for all choices: the same input, the sum of the outputs."""
    merged: dict[str, Any] = {}
    for usage in usages:
        merged = merged_usage(merged, usage)
    if len(usages) > 1:
        output = sum(token_count(usage.get("completion_tokens")) or 0 for usage in usages)
        total = (token_count(merged.get("prompt_tokens")) or 0) + output
        merged |= {"completion_tokens": output, "total_tokens": total}
    return merged
