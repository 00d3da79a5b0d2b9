"""Writes the tables of losses in docs/dialects.md from the code that translates. `make docs`; a test checks for drift."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from gateway.dialects.translation import ANSWER_TABLES, TABLES
from gateway.dialects.translation.fields import Field, Table
from gateway.dialects.translation.known_limits import LIMITS, Limit

PATH = Path(__file__).parent.parent / "docs" / "dialects.md"
_BEGIN = "<!-- Written by `make docs` from gateway/dialects/translation; edit that. -->\n"
_END = "<!-- End of what `make docs` writes. -->\n"
_NAMES = {"chat": "chat completions", "messages": "Messages", "responses": "Responses"}
_REQUEST_INTRODUCTION = """
**carried**: under its own name. **mapped**: to what the last column says. **dropped**: named in `x-penstock-dropped`.
**refused**: by name, before a provider is dialed. A field of a request that is not listed is refused, one of an object
within it is dropped. Responses go to Messages by way of chat completions, so that two tables apply.
"""
_ANSWER_INTRODUCTION = """
A field or block that is not listed is dropped; what is dropped is named after `answer:`.
"""
_LIMITS_INTRODUCTION = """
Beyond the dialect, families of models are known to refuse fields or values. Translated requests are adapted, or the
deployment is excluded by name; what is dropped is named in `x-penstock-dropped`. An effort that a model lacks becomes the
nearest that it has; servers of unknown models are sent low, medium or high.
"""


def written() -> str:
    """The document with its tables as the code has them."""
    text = PATH.read_text()
    head, _, rest = text.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    return f"{head}{_BEGIN}{''.join(_sections())}\n{_END}{tail}"


def _sections() -> Iterator[str]:
    yield f"\n### Fields of requests\n{_REQUEST_INTRODUCTION}"
    for (caller, provider), tables in TABLES.items():
        yield f"\n#### {_title(caller, provider)}\n\n| field | handling | |\n|---|---|---|\n"
        for path, fields in tables.items():
            yield from _rows(fields, path)
    yield f"\n### Fields of answers\n{_ANSWER_INTRODUCTION}"
    for (provider, caller), fields in ANSWER_TABLES.items():
        yield f"\n#### An answer of {_NAMES[provider]} to a caller of {_NAMES[caller]}\n\n| field | handling | |\n|---|---|---|\n"
        yield from _rows(fields, "")
    yield f"\n### What models refuse\n{_LIMITS_INTRODUCTION}\n"
    yield "| models | versions | what is done | source | read |\n|---|---|---|---|---|\n"
    yield from map(_limit_row, LIMITS)


def _title(caller: str, provider: str) -> str:
    return f"From {_NAMES[caller]} to {_NAMES[provider]}"


def _rows(fields: Table, path: str) -> Iterator[str]:
    """A row for each run of fields that are handled alike."""
    for _, alike in groupby(fields.values(), key=lambda field: (field.handling, field.detail)):
        group = list(alike)
        yield f"| {_names(group, path)} | {group[0].handling} | {group[0].detail} |\n"


def _names(group: Iterable[Field], path: str) -> str:
    return ", ".join(f"`{f'{path}.' if path else ''}{field.name}`" for field in group)


def _limit_row(limit: Limit) -> str:
    efforts = f"effort: {', '.join(limit.efforts)}" if limit.efforts else "the effort is dropped"
    done = "; ".join(text for text in (limit.does, efforts if limit.efforts is not None else "") if text)
    return f"| {limit.family.name} | {_versions(limit)} | {done} | {limit.source} | {limit.checked} |\n"


def _versions(limit: Limit) -> str:
    since, below = (".".join(map(str, version)) for version in (limit.since, limit.below))
    if limit.since == (0, 0):
        return ""
    return f"from {since}" if limit.below[0] == 999 else f"{since} to below {below}"


if __name__ == "__main__":
    PATH.write_text(written())
