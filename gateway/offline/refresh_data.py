"""Refreshes the shipped data from installed packages: `make refresh-data`.

The packages are litellm and codecarbon. Serving reads `gateway/feeds/data/` alone, so that neither has to be installed.
Each file names its source, version and license. The price list has one model a line, so that a price change shows as
one line of a diff.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from ..feeds.package_data import DATA_FOLDER, PRICE_LIST, data_file
from ..feeds.package_data import INTENSITY_TABLES as TABLES
from ..http.token_counter import VOCABULARY_FILE

_GRAMS_PER_POUND = 453.59237
_KWH_PER_MWH = 1000.0
# Keys of the list that are not models.
_NON_MODEL_KEYS = frozenset({"sample_spec", "fallback_generalizations"})
# What is kept of a listed model: money, limits, capabilities, and what kind of model it is.
_KEPT_PREFIXES = ("max_", "supports_", "search_", "web_search_", "tiered_", "prompt_cache_", "regional_")
_KEPT_KEYS = frozenset(
    {
        "mode",
        "litellm_provider",
        "deprecation_date",
        "thinking_always_on",
        "off_peak_pricing",
        "provider_specific_entry",
    }
)


def refresh(folder: Path = DATA_FOLDER) -> list[Path]:
    """Write every data file and return the paths.

    Raises FileNotFoundError where a package is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {PRICE_LIST: price_list(), TABLES: intensity_tables(), VOCABULARY_FILE: vocabulary()}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def price_list() -> bytes:
    """litellm's price list (MIT), reduced to what pricing and routing read.

    One model a line.
    """
    listed = orjson.loads(_package_file("litellm", "model_prices_and_context_window_backup.json"))
    models = {name: _reduced(entry) for name, entry in sorted(listed.items()) if name not in _NON_MODEL_KEYS}
    lines = (orjson.dumps(name) + b":" + orjson.dumps(entry) for name, entry in models.items())
    source = _source("litellm", "model_prices_and_context_window_backup.json", "MIT")
    return b'{"source":' + source + b',"models":{\n' + b",\n".join(lines) + b"\n}}\n"


def intensity_tables() -> bytes:
    """codecarbon's annual grid intensities in gCO2e/kWh.

    MIT; Our World in Data / Ember CC BY 4.0, EPA eGRID.
    """
    countries = {
        zone: float(row["carbon_intensity"])
        for zone, row in _private_infra("global_energy_mix.json").items()
        if isinstance(row, dict) and row.get("carbon_intensity")
    }
    regions = {
        f"USA-{state.replace(' ', '-')}": row["emissions"] * _GRAMS_PER_POUND / _KWH_PER_MWH
        for state, row in _private_infra("2023", "usa_emissions.json").items()
        if isinstance(row, dict) and isinstance(row.get("emissions"), int | float)
    }
    for table in (("nordic_emissions.json",), ("2023", "china_provincial_emissions.json")):
        for zone, row in _private_infra(*table).get("data", {}).items():
            regions[zone] = float(row["emission_factor"])
    source = orjson.loads(_source("codecarbon", "data/private_infra", "MIT; Our World in Data / Ember CC BY 4.0"))
    document = {"source": source, "annual_region": regions, "annual_country": countries}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n"


def vocabulary() -> bytes:
    """OpenAI's o200k_base vocabulary as litellm ships it (MIT).

    Under the file name that tiktoken looks for.
    """
    return _package_file("litellm", "litellm_core_utils", "tokenizers", VOCABULARY_FILE)


def _reduced(entry: Mapping[str, Any]) -> dict[str, Any]:
    kept = {
        key: value
        for key, value in entry.items()
        if "cost" in key or key in _KEPT_KEYS or key.startswith(_KEPT_PREFIXES)
    }
    return dict(sorted(kept.items()))


def _private_infra(*parts: str) -> dict[str, Any]:
    document: dict[str, Any] = orjson.loads(_package_file("codecarbon", "data", "private_infra", *parts))
    return document


def _package_file(package: str, *parts: str) -> bytes:
    path = data_file(package, *parts)
    if path is None:
        raise FileNotFoundError(f"{package} is not installed, or does not ship {'/'.join(parts)}")
    return path.read_bytes()


def _source(package: str, file: str, licence: str) -> bytes:
    today = datetime.now(UTC).date().isoformat()
    return orjson.dumps(
        {"package": package, "version": version(package), "file": file, "licence": licence, "refreshed": today}
    )


if __name__ == "__main__":
    for path in refresh():
        print(path.name, path.stat().st_size, "bytes")
