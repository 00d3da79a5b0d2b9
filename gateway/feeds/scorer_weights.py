"""The scorer's weights, which come with the package: trained on public outcomes by `penstock learn train`."""

import gzip
import hashlib
from functools import cache
from pathlib import Path

import orjson

from ..routing.scorer import Scorer

WEIGHTS = Path(__file__).parent / "scorer_weights.json.gz"


@cache
def load(path: Path = WEIGHTS) -> Scorer:
    """The scorer of a weights file, read once. Raises OSError, and ValueError for what is no such file."""
    packed = path.read_bytes()
    try:
        return Scorer(hashlib.sha256(packed).hexdigest()[:12], orjson.loads(gzip.decompress(packed)))
    except (orjson.JSONDecodeError, gzip.BadGzipFile, EOFError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path}: not what `penstock learn train` writes: {type(error).__name__}") from error
