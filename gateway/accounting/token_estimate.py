"""Token estimates without a tokenizer: a best estimate and an upper bound.

Best estimate: 4 UTF-8 bytes a token for ASCII, 3 for everything else (English prose 4.2, code 3.5, CJK 3 bytes = 1
token; measured on o200k_base, see docs/methodology.md). Upper bound: byte-level tokenizers never make more tokens than
bytes, and the JSON around a message is longer than the control tokens that replace it.
"""

# Tokens that providers add around offered tools (Anthropic's tool-use system prompt: 313 to 346, docs of 2026).
TOOL_PREAMBLE_TOKENS = 512
# A picture given by URL: the largest high-detail charge of the field is under 3,000 tokens (OpenAI vision guide, 2026).
IMAGE_TOKENS = 1100
IMAGE_TOKENS_MAX = 3000

# No answer averages more than twelve bytes a token, three times the best estimate (a judgment; English prose has 4.2).
_OUTPUT_ERROR_FACTOR_MAX = 3
_ASCII = bytes(range(128))


def input_tokens(body: bytes | bytearray, *, skip_bytes: int = 0) -> int:
    """Best estimate of a body's tokens, without `skip_bytes` of inline media."""
    size = len(body) - skip_bytes
    if body.isascii():
        return max(1, size // 4)
    ascii_bytes = len(body) - len(body.translate(None, _ASCII))
    return max(1, (ascii_bytes - skip_bytes) // 4 + (len(body) - ascii_bytes) // 3)


def output_tokens(text_bytes: int, text_events: int) -> int:
    """Tokens of an answer without reported usage: by bytes, at least one per event."""
    return max(-(-text_bytes // 4), text_events)


def output_tokens_within(limit: int, text_bytes: int, text_events: int) -> int:
    """The same for an answer with an output limit of `limit` tokens.

    Four bytes of text may be less than a token: an estimate above the limit is the limit, so that a charge stays within
    its hold. A text too long for that is counted: its provider ignored the limit.
    """
    estimate = output_tokens(text_bytes, text_events)
    return limit if limit < estimate <= limit * _OUTPUT_ERROR_FACTOR_MAX else estimate
