"""Loads the scorer's weights, trained on public data by `penstock learn train`."""

import gzip
import hashlib
import zlib
from functools import cache
from pathlib import Path

import orjson

from ..routing.scorer import Scorer

WEIGHTS_PATH = Path(__file__).parent / "scorer_weights.json.gz"

# Exceptions of parsing a file of another format.
_PARSE_ERRORS = (
    orjson.JSONDecodeError, gzip.BadGzipFile, zlib.error, EOFError, KeyError, TypeError, IndexError, AttributeError,
    ValueError, AssertionError,
)  # fmt: skip


@cache
def load(path: Path = WEIGHTS_PATH) -> Scorer:
    """Returns the scorer of a weights file, cached. Raises OSError and ValueError."""
    packed = path.read_bytes()
    try:
        return Scorer(hashlib.sha256(packed).hexdigest()[:12], orjson.loads(gzip.decompress(packed)))
    except _PARSE_ERRORS as error:
        raise ValueError(f"{path}: not a weights file of `penstock learn train`: {type(error).__name__}") from error
