"""The shipped scorer weights, and files that are none."""

import gzip
import hashlib
from pathlib import Path

import pytest

from gateway.feeds import scorer_weights


def test_the_shipped_weights_load_once_and_are_named_by_their_digest():
    scorer = scorer_weights.load()
    assert scorer.name == hashlib.sha256(scorer_weights.WEIGHTS_PATH.read_bytes()).hexdigest()[:12]
    assert scorer_weights.load() is scorer


@pytest.mark.parametrize(
    "content",
    [b"", b"not gzip", gzip.compress(b"not JSON"), gzip.compress(b"{}"), gzip.compress(b"[]"),
     gzip.compress(b'{"words": 7}'), scorer_weights.WEIGHTS_PATH.read_bytes()[:-100]],
    ids=["empty", "not gzip", "not JSON", "no weights", "a list", "wrong types", "truncated"],
)  # fmt: skip
def test_another_file_is_refused_by_name(tmp_path: Path, content: bytes):
    path = tmp_path / "weights.json.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.json\.gz: not a weights file of `penstock learn train`"):
        scorer_weights.load(path)


def test_a_missing_file_is_an_os_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        scorer_weights.load(tmp_path / "none")
