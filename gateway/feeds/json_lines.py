"""Reads JSON Lines, plain or gzip; errors name file and line."""

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TypeVar, cast

T = TypeVar("T")

_SUFFIXES = (".jsonl", ".jsonl.gz")


def read(
    paths: Iterable[Path], parse: Callable[[bytes, Path], T], expected: str, parse_errors: tuple[type[Exception], ...]
) -> Iterator[T]:
    """Parses each line of the files, and of .jsonl[.gz] files in folders by name.

    expected: what a line is, with its article, for error messages.
    parse_errors: exceptions that `parse` raises for an invalid line.

    Raises ValueError with file and line for an invalid line and for a file that cannot be read.
    """
    for path in paths:
        files = [path]
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.name.endswith(_SUFFIXES))
            if not files:
                raise ValueError(f"{path}: no .jsonl or .jsonl.gz files in this folder")
        for file in files:
            yield from _lines(file, parse, expected, parse_errors)


def _lines(
    file: Path, parse: Callable[[bytes, Path], T], expected: str, parse_errors: tuple[type[Exception], ...]
) -> Iterator[T]:
    number = 0
    try:
        with _open(file) as lines:
            for line in lines:
                number += 1
                if line.strip():
                    yield parse(line, file)
    except parse_errors as error:
        raise ValueError(f"{file}:{number}: not {expected}: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file}:{number + 1}: cannot be read: {error}") from error


def _open(file: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(file, "rb")) if file.suffix == ".gz" else file.open("rb")
