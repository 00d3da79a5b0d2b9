"""Finds a data file inside an installed package without importing the package."""

from importlib.util import find_spec
from pathlib import Path


def data_file(package: str, *parts: str) -> Path | None:
    """The path of a shipped file, None where the package (or the file) is not installed."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]).joinpath(*parts)
    return path if path.is_file() else None


def tokenizer_folder() -> Path | None:
    """The folder with litellm's tokenizer files, None where litellm is not installed."""
    spec = find_spec("litellm")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "litellm_core_utils" / "tokenizers"
    return folder if folder.is_dir() else None
