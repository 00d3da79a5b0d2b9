"""Sizes of models from EcoLogits' registry (MPL-2.0, an optional extra): read from the package's data file, which is neither
copied nor imported. Much of it is guessed, and says so.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from ..values.base import Value
from .package_data import data_file


class ModelSizeEstimate(Value, frozen=True, kw_only=True):
    """Parameters in billions (1e9); ranges count by their middle. `warning`: what the registry says against them, "" for
    nothing."""

    total_params_b: float
    active_params_b: float
    warning: str


@lru_cache(maxsize=1)
def load() -> Mapping[str, ModelSizeEstimate]:
    """Model -> guess; empty where the package is not installed."""
    path = data_file("ecologits", "data", "models.json")
    if path is None:
        return {}
    return parse(orjson.loads(path.read_bytes()))


def parse(document: Mapping[str, Any]) -> Mapping[str, ModelSizeEstimate]:
    """What the registry's document says; names in lower case, aliases among them."""
    found: dict[str, ModelSizeEstimate] = {}
    for row in document.get("models", ()):
        one = _size_estimate(row)
        if one is not None:
            found[str(row["name"]).lower()] = one
    for alias in document.get("aliases", ()):
        known = found.get(str(alias.get("alias", "")).lower())
        if known is not None:
            found[str(alias["name"]).lower()] = known
    return found


def find(model: str) -> ModelSizeEstimate | None:
    """What the registry has under exactly this name, or under the part behind the organisation."""
    known = load()
    return known.get(model.lower()) or known.get(model.rsplit("/", 1)[-1].lower())


def _size_estimate(row: dict[str, Any]) -> ModelSizeEstimate | None:
    parameters = (row.get("architecture") or {}).get("parameters")
    sizes = parameters if isinstance(parameters, dict) and "total" in parameters else {"total": parameters}
    total, active = _midpoint(sizes.get("total")), _midpoint(sizes.get("active", sizes.get("total")))
    if total is None or active is None:
        return None
    warnings = row.get("warnings") or []
    return ModelSizeEstimate(
        total_params_b=total,
        active_params_b=min(active, total),
        warning=", ".join(str(one).replace("-", " ") for one in warnings),
    )


def _midpoint(value: Any) -> float | None:
    if isinstance(value, dict) and "min" in value and "max" in value:
        value = (value["min"] + value["max"]) / 2
    return float(value) if isinstance(value, int | float) and value > 0 else None
