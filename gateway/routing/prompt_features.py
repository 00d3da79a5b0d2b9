"""Features of a prompt for the scorer: its words and numeric features. Pure.

The cost is bounded whatever the length: only the head and tail of the prompt and the head of the tools are read, in
microseconds. The features and their order belong to the committed weights: any change here requires retraining
(`penstock learn train`).
"""

import re
from itertools import islice

from ..values.plan import PromptFeatures

# Characters read of the prompt's head and tail, and of the tools.
HEAD_CHARS, TAIL_CHARS, TOOLS_CHARS = 500, 200, 1500
# Letters to lower case, digits to 0, everything else in ASCII to a space.
_WORD_CHARS = "".join(
    chr(code).lower() if chr(code).isalpha() or chr(code) == "_" else "0" if chr(code).isdigit() else " "
    for code in range(128)
)
_OPTION_PATTERN = re.compile(r"^\(?[A-J][.):] ?(.*)", re.M)
_NUMBER_PATTERN = re.compile(r"\d[\d,.]*")
_INDENT_PATTERN = re.compile(r"\n +")
_REQUIRED_PATTERN = re.compile(r'"required":\[([^\]]*)')
_ENUM_PATTERN = re.compile(r'"enum":\[([^\]]*)')
_OPTIONS_MAX = 10

_COUNTED_CHARS = "?,$\\^=([{\"'%/+-*:_\n;<."
_COUNTED_WORDS = (
    "not", "except", "statement", "which", "following", "how", "what", "who", "when", "many", "much", "each", "per",
    "twice", "than", "if", "or", "and", "the", "i", "you", "find", "all", "false", "most", "he", "she", "function",
    "value", "equation", "can", "is",
)  # fmt: skip
_COUNTED_CODE = (
    "for ",
    "while ",
    "if ",
    ".replace",
    "append",
    "pop",
    "split",
    "join",
    "range",
    "return",
    "len(",
    "[::",
)
_COUNTED_TOOL_KEYS = ('"name":', '"type":', '"default"', '"array"', '"dict"', '"float"', '"integer"', '"String"')
# A call whose result is to be completed, as in assertion benchmarks.
_ASSERT_CALL = "assert f("

_OPTION_FEATURES = ("count", "mean", "spread", "stem", "numeric", "words", "distinct", "in_stem", "share")
_NUMBER_FEATURES = ("count", "longest", "mean", "distinct", "decimals", "share")
_CODE_FEATURES = (
    *_COUNTED_CODE, "indents", "deepest", "indent", "argument", "call_at", "commas", "quotes", "brackets", "numbers",
)  # fmt: skip
_TOOL_FEATURES = (
    "chars", *_COUNTED_TOOL_KEYS, "tools", "per_tool", "required", "required_most", "optional", "shared_of_prompt",
    "shared_of_tools", "named", "enums", "vocabulary",
)  # fmt: skip
_TEXT_FEATURES = ("chars", "words", "word_mean", "distinct", "word_longest", "word_median", "word_p90", "word_p75")
FEATURE_NAMES = (
    *_TEXT_FEATURES, *(f"char {char}" for char in _COUNTED_CHARS), *(f"word {word}" for word in _COUNTED_WORDS),
    "sentences", *(f"options {name}" for name in _OPTION_FEATURES), *(f"numbers {name}" for name in _NUMBER_FEATURES),
    "ascii", "titles", "last_sentence",
    *(f"code {name}" for name in _CODE_FEATURES), *(f"tools {name}" for name in _TOOL_FEATURES),
)  # fmt: skip
# (start, end) of the blocks that most prompts lack, last in the order. An absent block is -1 throughout.
_CODE_START = len(FEATURE_NAMES) - len(_CODE_FEATURES) - len(_TOOL_FEATURES)
OPTIONAL_BLOCKS = (
    (_CODE_START, _CODE_START + len(_CODE_FEATURES)),
    (_CODE_START + len(_CODE_FEATURES), len(FEATURE_NAMES)),
)
ABSENT = -1.0
_NO_OPTIONS = [0.0, *[ABSENT] * (len(_OPTION_FEATURES) - 1)]
_NO_NUMBERS = [0.0] * len(_NUMBER_FEATURES)
_NO_CODE, _NO_TOOLS = [ABSENT] * len(_CODE_FEATURES), [ABSENT] * len(_TOOL_FEATURES)
# (spelling of other dialects and JSON writers, spelling in the training data).
_SPELLINGS = (
    ('": ', '":'), ('"input_schema":', '"parameters":'), ('"object"', '"dict"'), ('"type":"function",', ""),
    (',"type":"function"', ""),
)  # fmt: skip
# Prefix of words that occur in the tools.
TOOL_WORD_PREFIX = "@"


def prompt_features(prompt: str, tools: str = "") -> PromptFeatures:
    """The features of a prompt; `tools` is what `normalized_tools` returns."""
    text = prompt if len(prompt) <= HEAD_CHARS + TAIL_CHARS else f"{prompt[:HEAD_CHARS]}\n{prompt[-TAIL_CHARS:]}"
    plain = text.translate(_WORD_CHARS)
    words = plain.split()
    distinct, count = set(words), len(words) or 1
    lengths = sorted(map(len, distinct)) or [0]
    kinds = len(lengths)
    dense: list[float] = [
        len(prompt), count, sum(lengths) / kinds, kinds / count, lengths[-1], lengths[kinds // 2],
        lengths[kinds * 9 // 10], lengths[kinds * 3 // 4],
    ]  # fmt: skip
    dense += map(text.count, _COUNTED_CHARS)
    dense += map(distinct.__contains__, _COUNTED_WORDS)
    dense.append(text.count(". "))
    dense += _option_features(text, plain, distinct) if "\nB" in text else _NO_OPTIONS
    dense += _number_features(text, count)
    dense += (
        text.isascii(),
        sum(map(str.istitle, text.split(" "))) / count,
        len(text) - text.rfind(". ", 0, -2),
    )
    dense += _code_features(text) if "def " in text or "return" in text else _NO_CODE
    if tools:
        tool_features, vocabulary = _tool_features(tools, distinct)
        dense += tool_features
        distinct |= {TOOL_WORD_PREFIX + word for word in vocabulary}
    else:
        dense += _NO_TOOLS
    return PromptFeatures(words=frozenset(distinct), dense=tuple(dense))


def normalized_tools(tools: bytes) -> str:
    """The JSON of offered tools in the spelling of the scorer's training data."""
    text = tools.decode("utf-8", "ignore")
    for spelling, trained in _SPELLINGS:
        text = text.replace(spelling, trained)
    return text


def _split_words(text: str) -> list[str]:
    return text.translate(_WORD_CHARS).split()


def _option_features(text: str, plain: str, distinct: set[str]) -> list[float]:
    """Features of multiple-choice options; `plain` is `text` by _WORD_CHARS."""
    spans = [match.span(1) for match in islice(_OPTION_PATTERN.finditer(text), _OPTIONS_MAX)]
    options = [text[begin:end] for begin, end in spans]
    if not options:
        return _NO_OPTIONS
    count, sizes, stem = len(options), [*map(len, options)], text.find("\nA")
    bags = [set(plain[begin:end].split()) for begin, end in spans]
    union: set[str] = set().union(*bags)
    total = sum(map(len, bags))
    stem_words = set(plain[:stem].split()) if stem > 0 else distinct
    numeric = sum([option[:1].isdigit() or option[:1] in "$-+" for option in options])
    return [
        count, sum(sizes) / count, max(sizes) - min(sizes), stem, numeric / count, total / count,
        len(union) / (total or 1), len(union & stem_words) / (len(union) or 1), sum(sizes) / len(text),
    ]  # fmt: skip


def _number_features(text: str, words: int) -> list[float]:
    numbers = _NUMBER_PATTERN.findall(text)
    if not numbers:
        return _NO_NUMBERS
    sizes = [*map(len, numbers)]
    decimals = sum(["." in number[:-1] for number in numbers])
    return [len(numbers), max(sizes), sum(sizes) / len(sizes), len(set(numbers)), decimals, len(numbers) / words]


def _code_features(text: str) -> list[float]:
    indents = [*map(len, _INDENT_PATTERN.findall(text))]
    counts: list[float] = [*map(text.count, _COUNTED_CODE)]
    counts += [len(indents), max(indents, default=0), sum(indents) / (len(indents) or 1)]
    call = text.find(_ASSERT_CALL)
    if call < 0:
        return counts + [ABSENT] * 6
    argument = text[call + len(_ASSERT_CALL) :]
    return [*counts, len(argument), call, *map(argument.count, ",'["), len(_NUMBER_PATTERN.findall(argument))]


def _tool_features(tools: str, distinct: set[str]) -> tuple[list[float], set[str]]:
    """Features of the offered tools, and their words."""
    text = tools[:TOOLS_CHARS]
    keys = [*map(text.count, _COUNTED_TOOL_KEYS)]
    offered = text.count('"parameters":') or 1
    required = [names.count(",") + 1 for names in _REQUIRED_PATTERN.findall(text)]
    vocabulary = set(_split_words(text))
    shared = len(distinct & vocabulary)
    start = text.find('"name":') + 8
    name = _split_words(text[start : text.find('"', start)].replace("_", " "))
    stems = {word[:5] for word in distinct}
    enums = sum([values.count(",") + 1 for values in _ENUM_PATTERN.findall(text)])
    total = sum(required)
    return [
        len(tools), *keys, offered, keys[1] / offered, total / (len(required) or 1), max(required, default=0),
        total - keys[1] + offered, shared / (len(distinct) or 1), shared / (len(vocabulary) or 1),
        sum([word[:5] in stems for word in name]) / (len(name) or 1), enums, len(vocabulary),
    ], vocabulary  # fmt: skip
