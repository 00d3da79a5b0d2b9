"""Messages for invalid request bodies, in OpenAI's and in Anthropic's wording."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ..values.errors import BadRequest

_MISSING_FIELD = re.compile(r"missing required field `([^`]+)`")
_WRONG_TYPE = re.compile(r"Expected `([^`]+)`, got `([^`]+)`")
_INDEX = re.compile(r"\[(\d+)\]")
# The decoder's names for JSON types, by the type of a decoded value.
_JSON_TYPES = {str: "str", bool: "bool", int: "int", float: "float", list: "array", dict: "object"}


class BodyErrorTexts(NamedTuple):
    """One provider's wording, as format strings over `field` and what the mistake names.

    invalid_json: the body cannot be parsed; `reason`
    missing: a required field is absent
    wrong_type: a value has another type; `expected` and `actual` with articles, `nouns` without
    type_names: the provider's nouns for the decoder's types
    empty_string, empty_array: a value that must not be empty
    long_string: `maximum` and `length`, in characters
    below_minimum: an integer under `minimum`; `value`
    above_maximum: an integer over `maximum`; `value`
    ambiguous: a key that occurs twice, in other letters or with escapes
    dotted_indexes: whether array indexes are written as `a.0` instead of `a[0]`
    """

    invalid_json: str
    missing: str
    wrong_type: str
    type_names: Mapping[str, str]
    empty_string: str
    empty_array: str
    long_string: str
    below_minimum: str
    above_maximum: str
    ambiguous: str
    dotted_indexes: bool

    def field(self, path: str) -> str:
        """A field's path as the provider writes it."""
        return _INDEX.sub(r".\1", path) if self.dotted_indexes else path


# Neither API has a message for an ambiguous key.
OPENAI_ERRORS = BodyErrorTexts(
    invalid_json="We could not parse the JSON body of your request: {reason}.",
    missing="Missing required parameter: '{field}'.",
    wrong_type="Invalid type for '{field}': expected {expected}, but got {actual} instead.",
    type_names={"str": "string", "int": "integer", "float": "decimal", "bool": "boolean"},
    empty_string=(
        "Invalid '{field}': empty string. Expected a string with minimum length 1, but got an empty string instead."
    ),
    empty_array=(
        "Invalid '{field}': empty array. Expected an array with minimum length 1, but got an empty array instead."
    ),
    long_string=(
        "Invalid '{field}': string too long. Expected a string with maximum length {maximum}, but got a string with "
        "length {length} instead."
    ),
    below_minimum=(
        "Invalid '{field}': integer below minimum value. Expected a value >= {minimum}, but got {value} instead."
    ),
    above_maximum=(
        "Invalid '{field}': integer above maximum value. Expected a value <= {maximum}, but got {value} instead."
    ),
    ambiguous="Invalid '{field}': the key must appear exactly once, in lower case and without escapes.",
    dotted_indexes=False,
)
ANTHROPIC_ERRORS = BodyErrorTexts(
    invalid_json="The request body is not valid JSON: {reason}",
    missing="{field}: Field required",
    wrong_type="{field}: Input should be a valid {nouns}, got {actual}",
    type_names={
        "str": "string", "int": "integer", "float": "number", "bool": "boolean", "array": "list", "object": "dictionary",
    },
    empty_string="{field}: String should have at least 1 character",
    empty_array="{field}: at least one message is required",
    long_string="{field}: String should have at most {maximum} characters, got {length}",
    below_minimum="{field}: Input should be greater than or equal to {minimum}, got {value}",
    above_maximum="{field}: Input should be less than or equal to {maximum}, got {value}",
    ambiguous="{field}: Key must appear exactly once, in lower case and without escapes",
    dotted_indexes=True,
)  # fmt: skip


def validation_error(error: msgspec.ValidationError, required: str, texts: BodyErrorTexts) -> BadRequest:
    """The error for a body that does not fit; `required` is the parameter to name where a top-level field is missing."""
    sentence, _, path = str(error).partition(" - at ")
    param = path.strip("`").removeprefix("$").removeprefix(".")
    if missing := _MISSING_FIELD.search(sentence):
        name = f"{param}.{missing.group(1)}" if param else missing.group(1)
        return BadRequest(texts.missing.format(field=texts.field(name)), param=param or required)
    if not (wrong := _WRONG_TYPE.search(sentence)):
        return BadRequest(f"{texts.field(param or 'body')}: {sentence}.", param=param or None)
    expected = tuple(kind for kind in wrong.group(1).split(" | ") if kind != "null")
    return _wrong_type(param or None, expected, wrong.group(2), texts)


def wrong_type_error(param: str, expected: str, value: Any, texts: BodyErrorTexts) -> BadRequest:
    """The error for a decoded value that is not of the `expected` type."""
    return _wrong_type(param, (expected,), _JSON_TYPES.get(type(value), "null"), texts)


def _wrong_type(param: str | None, expected: Sequence[str], actual: str, texts: BodyErrorTexts) -> BadRequest:
    nouns = " or ".join(texts.type_names.get(kind, kind) for kind in expected)
    message = texts.wrong_type.format(
        field=texts.field(param or "body"),
        expected=("one of " if len(expected) > 1 else "") + _with_article(nouns),
        nouns=nouns,
        actual=_with_article(texts.type_names.get(actual, actual)),
    )
    return BadRequest(message, param=param)


def _with_article(noun: str) -> str:
    return noun if noun == "null" else f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"
