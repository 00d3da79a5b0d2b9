"""Model sizes from EcoLogits' registry (MPL-2.0, an optional extra).

Read from the installed package's data file; the package is neither copied nor imported. Many sizes are estimates and
carry a warning.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from ..values.base import Value
from .package_data import data_file


class ModelSizeEstimate(Value, frozen=True, kw_only=True):
    """Size of one model; a range counts by its midpoint.

    total_params_b: total parameters, billions (1e9).
    active_params_b: parameters active per token, billions (1e9).
    warning: the registry's warnings about the size, "" for none.
    """

    total_params_b: float
    active_params_b: float
    warning: str


@lru_cache(maxsize=1)
def load() -> Mapping[str, ModelSizeEstimate]:
    """Returns model -> size estimate; empty if the package is not installed."""
    path = data_file("ecologits", "data", "models.json")
    if path is None:
        return {}
    return parse(orjson.loads(path.read_bytes()))


def parse(document: Mapping[str, Any]) -> Mapping[str, ModelSizeEstimate]:
    """Returns model -> size estimate; names and aliases are in lower case."""
    estimates: dict[str, ModelSizeEstimate] = {}
    for row in document.get("models", ()):
        estimate = _size_estimate(row)
        if estimate is not None:
            estimates[str(row["name"]).lower()] = estimate
    for alias in document.get("aliases", ()):
        target = estimates.get(str(alias.get("alias", "")).lower())
        if target is not None:
            estimates[str(alias["name"]).lower()] = target
    return estimates


def find(model: str) -> ModelSizeEstimate | None:
    """Returns the estimate by exact name, with or without the organization."""
    estimates = load()
    return estimates.get(model.lower()) or estimates.get(model.rsplit("/", 1)[-1].lower())


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
        warning=", ".join(str(warning).replace("-", " ") for warning in warnings),
    )


def _midpoint(value: Any) -> float | None:
    if isinstance(value, dict) and "min" in value and "max" in value:
        value = (value["min"] + value["max"]) / 2
    return float(value) if isinstance(value, int | float) and value > 0 else None
