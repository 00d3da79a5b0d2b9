"""Where data files lie: those that ship with Penstock, and those inside other installed packages."""

from importlib.util import find_spec
from pathlib import Path

# Refreshed by `make refresh-data` (offline/refresh_data.py); each file names its source and version.
DATA_FOLDER = Path(__file__).parent / "data"
PRICE_LIST = "prices_litellm.json"
INTENSITY_TABLES = "intensity_tables.json"


def data_file(package: str, *parts: str) -> Path | None:
    """The path of a file inside an installed package, found without importing it; None where there is none."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]).joinpath(*parts)
    return path if path.is_file() else None
