"""Optional extras of the package: which installed package each feature needs, and what to say where it is missing."""

from collections.abc import Mapping

# Package that is imported -> extra that brings it; see [project.optional-dependencies] in pyproject.toml.
EXTRA_BY_PACKAGE: Mapping[str, str] = {
    "redis": "redis",
    "hiredis": "redis",
    "litellm": "litellm",
    "codecarbon": "own-energy",
    "numpy": "train",
    "openai": "demo",
    "matplotlib": "plot",
    "ecologits": "ecologits",
}


def install_hint(package: str) -> str:
    """Which package is missing and the command that installs it."""
    return f"'{package}' is not installed; run: pip install 'penstock[{EXTRA_BY_PACKAGE[package]}]'"
