"""What tests of a running gateway share: the `start_gateway` fixture."""

from pathlib import Path
from typing import Any

import pytest

from tests.gateways import StartGateway, serving_gateway


@pytest.fixture
def start_gateway(tmp_path: Path) -> StartGateway:
    """`async with start_gateway(more="...") as it:` starts one and stops it; options as of `serving_gateway`.

    All of a test share a data folder unless `data` is given.
    """

    def start(*, data: Path | None = None, **options: Any):
        return serving_gateway(data or tmp_path / "data", **options)

    return start
