"""Which texts of a routing file may be shown, and which look like a secret that was written into the wrong place. Pure.

Messages name a place in the file, so that a text that is hidden in doubt is still found.
"""

import re

HIDDEN = "[hidden: looks like a secret]"
# How keys of providers and services begin, and what holds a password within a URL or a header; from their documentation
# (2026-11): OpenAI, Anthropic, Stripe, GitHub, GitLab, Slack, AWS, Google, Hugging Face, Groq, xAI, Perplexity, Replicate,
# NVIDIA, Together, Fireworks, Cerebras, SendGrid, DigitalOcean, Azure; JSON Web Tokens; PEM.
_KNOWN_FORM = re.compile(
    r"""(?ix)
    ^(?:sk|rk|pk)[-_](?=.{3}) | ^sess-(?=.{8}) | ^gh[opusr]_ | ^github_pat_ | ^glpat- | ^xox[a-z]- | ^xapp- | ^whsec_
    | ^(?:akia|asia)[a-z0-9]{12,} | ^aiza[a-z0-9_-]{20,} | ^ya29\. | ^hf_[a-z0-9]{8,} | ^gsk_[a-z0-9]{8,}
    | ^xai-[a-z0-9]{8,} | ^pplx-[a-z0-9]{8,} | ^r8_[a-z0-9]{8,} | ^nvapi- | ^tgp_v\d_ | ^fw_[a-z0-9]{8,}
    | ^csk-[a-z0-9]{8,} | ^sg\.[a-z0-9_-]{8,} | ^dop_v\d_ | accountkey= | ^eyj[a-z0-9_-]{8,} | -----begin | -----end
    | ^(?:bearer|basic)\s+\S | ://[^/\s@]+@ | [?&](?:api_?key|key|token|secret|password|sig|signature|code)=
    """
)
_UUID = re.compile(r"(?i)[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_WORD_SEPARATORS = re.compile(r"[-_./:@,;=+*\s]+")
# The parts of a word in the writing of names: Capitalized, CAPITALS, lower case, digits.
_WORD_PARTS = re.compile(r"[A-Z][a-z]+|[A-Z]+|[a-z]+|[0-9]+|[^A-Za-z0-9]+")
# A word of a name is shorter, or of one kind of characters, or of longer parts than chance makes.
_RANDOM_CHARS_MIN, _MIXED_CHARS_MIN, _PART_CHARS_MEAN_MIN = 12, 16, 3.0
# A dated model name is the longest number of a name: 20250929.
_DIGITS_MAX = 12
# OPENAI_API_KEY, KEY_3, GPT4_EU: words in capitals, each with a short number at most.
_VARIABLE = re.compile(
    r"(?:[A-Z]{1,20}[0-9]{0,4}|[0-9]{1,4}[A-Z]{0,3})(?:_(?:[A-Z]{1,20}[0-9]{0,4}|[0-9]{1,4}[A-Z]{0,3}))*"
)
_PATH = re.compile(r"(?:[~.]{0,2}/|[A-Za-z]:\\|[a-z0-9_-]+/).*|[a-z0-9_-]+\.[a-z]{2,5}")
# What separates a quoted text from the words around it in a message.
_TOKENS = re.compile(r"[^\s'\"(){}\[\],;]+")


def looks_like_secret(text: str) -> bool:
    """Whether a text has the form of a key, a token or a password in a URL, or one of its words looks random."""
    if _KNOWN_FORM.search(text) or _UUID.search(text):
        return True
    return any(_is_random(word) for word in _WORD_SEPARATORS.split(text))


def _is_random(word: str) -> bool:
    if len(word) < _RANDOM_CHARS_MIN:
        return False
    has_digits, has_letters = any(char.isdigit() for char in word), any(char.isalpha() for char in word)
    if not has_letters:
        return len(word) > _DIGITS_MAX and has_digits
    if has_digits and len(word) >= _MIXED_CHARS_MIN:
        return True
    return len(word) / len(_WORD_PARTS.findall(word)) < _PART_CHARS_MEAN_MIN


def is_variable_name(text: str) -> bool:
    """Whether a text is surely the name of an environment variable, so that it can be shown."""
    return _VARIABLE.fullmatch(text) is not None and not looks_like_secret(text)


def is_path(text: str) -> bool:
    """Whether a text is surely a path, so that it can be shown."""
    return _PATH.fullmatch(text) is not None and not looks_like_secret(text)


def without_secrets(message: str) -> str:
    """The message, with each word hidden that looks like a secret."""
    return _TOKENS.sub(lambda match: HIDDEN if looks_like_secret(match[0]) else match[0], message)
