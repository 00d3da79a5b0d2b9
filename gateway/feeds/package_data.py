"""Finds data files: those shipped with Penstock, and those of installed packages."""

from importlib.util import find_spec
from pathlib import Path

# Refreshed by `make refresh-data` (offline/refresh_data.py); each file names its source and version.
DATA_FOLDER = Path(__file__).parent / "data"
PRICE_LIST = "prices_litellm.json"
INTENSITY_TABLES = "intensity_tables.json"


def is_installed(package: str) -> bool:
    """Returns whether a package can be imported, without importing it."""
    return find_spec(package) is not None


def data_file(package: str, *parts: str) -> Path | None:
    """Returns the path of a file in an installed package, None if missing.

    Does not import the package.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]).joinpath(*parts)
    return path if path.is_file() else None
