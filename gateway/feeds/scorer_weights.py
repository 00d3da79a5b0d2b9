"""The scorer's weights, which come with the package: trained on public outcomes by `penstock learn train`."""

import gzip
import hashlib
import zlib
from functools import cache
from pathlib import Path

import orjson

from ..routing.scorer import Scorer

WEIGHTS_PATH = Path(__file__).parent / "scorer_weights.json.gz"

# What reading a file of another shape may raise.
_PARSE_ERRORS = (
    orjson.JSONDecodeError, gzip.BadGzipFile, zlib.error, EOFError, KeyError, TypeError, IndexError, AttributeError,
    ValueError, AssertionError,
)  # fmt: skip


@cache
def load(path: Path = WEIGHTS_PATH) -> Scorer:
    """The scorer of a weights file, read once. Raises OSError, and ValueError for what is no such file."""
    packed = path.read_bytes()
    try:
        return Scorer(hashlib.sha256(packed).hexdigest()[:12], orjson.loads(gzip.decompress(packed)))
    except _PARSE_ERRORS as error:
        raise ValueError(f"{path}: not what `penstock learn train` writes: {type(error).__name__}") from error
