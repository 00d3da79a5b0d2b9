"""JSON Lines: plain and compressed files, folders, and errors with their place."""

import gzip
import json
from pathlib import Path

import pytest

from gateway.feeds import json_lines


def read(*paths: Path) -> list[tuple[int, str]]:
    """(value, file name) of each line."""
    return list(json_lines.read(paths, lambda line, file: (json.loads(line), file.name), "a number", (ValueError,)))


def test_lines_are_read_in_order_without_blank_ones(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("1\n\n  \n2\n3")
    assert read(path) == [(1, "a.jsonl"), (2, "a.jsonl"), (3, "a.jsonl")]


def test_a_folder_is_read_by_name_and_only_its_json_lines(tmp_path):
    (tmp_path / "b.jsonl").write_text("2\n")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"1\n"))
    (tmp_path / "notes.txt").write_text("not a number")
    assert read(tmp_path) == [(1, "a.jsonl.gz"), (2, "b.jsonl")]


def test_a_folder_without_json_lines_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no \.jsonl or \.jsonl\.gz files"):
        read(tmp_path)


def test_an_invalid_line_is_named_with_file_and_number(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("1\n\nx\n")
    with pytest.raises(ValueError, match=r"a\.jsonl:3: not a number: ") as raised:
        read(path)
    assert raised.value.__cause__ is not None


def test_lines_before_an_invalid_one_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("1\nx\n")
    lines = json_lines.read([path], lambda line, _: json.loads(line), "a number", (ValueError,))
    assert next(lines) == 1


@pytest.mark.parametrize(
    "content", [gzip.compress(b"1\n2\n" * 1000)[:-10], b"not gzip"], ids=["truncated", "not compressed"]
)
def test_a_damaged_file_cannot_be_read(tmp_path, content):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz:\d+: cannot be read"):
        read(path)


def test_a_missing_file_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match=r"none\.jsonl:1: cannot be read"):
        read(tmp_path / "none.jsonl")


def test_an_error_that_the_parser_does_not_announce_is_passed_on(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n")
    with pytest.raises(KeyError):
        list(json_lines.read([path], lambda line, _: json.loads(line)["missing"], "a number", (ValueError,)))
