"""HTTP for tests of the feeds, and the time of their recorded answers."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

NOW = datetime(2026, 3, 6, 19, 10, tzinfo=UTC).timestamp()


class FakeWeb:
    """Answers by a part of the URL; records requests."""

    def __init__(self, **answers: object) -> None:
        self.requests: list[tuple[str, Mapping[str, str]]] = []
        self._answers = answers

    async def __call__(self, url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        self.requests.append((url, headers))
        response = next((answer for name, answer in self._answers.items() if name in url), (404, {"error": "no"}))
        if isinstance(response, Exception):
            raise response
        status, body = response if isinstance(response, tuple) else (200, response)
        return status, body if isinstance(body, bytes) else json.dumps(body).encode()
