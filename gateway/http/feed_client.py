"""The door to feeds, serving engines and meters: small documents by GET, in time or not at all. Never on a request's way."""

import asyncio
from collections.abc import Mapping

import aiohttp

# A feed that needs longer is asked again later; the answer of a day's forecast is about 20 kB, a busy DCGM page 1 MB.
_TIMEOUT_SECONDS = 5.0
_BODY_BYTES_MAX = 4 * 1024 * 1024


class FeedClient:
    """Asks addresses; opened at the first question."""

    def __init__(self) -> None:
        self._client: aiohttp.ClientSession | None = None

    async def get(self, url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """(status, body). Raises OSError or TimeoutError; their texts name neither address nor header. Redirects are not followed:
        they would carry the key elsewhere."""
        if self._client is None:
            self._client = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS), headers={"User-Agent": "penstock"}
            )
        try:
            async with (
                asyncio.timeout(_TIMEOUT_SECONDS),
                self._client.get(url, headers=headers, allow_redirects=False) as answer,
            ):
                body = await answer.content.read(_BODY_BYTES_MAX + 1)
                while not answer.content.at_eof() and len(body) <= _BODY_BYTES_MAX:
                    body += await answer.content.read(_BODY_BYTES_MAX + 1 - len(body))
        except TimeoutError:
            raise TimeoutError("no answer in time") from None
        except aiohttp.ClientConnectionError as error:
            raise OSError("no connection") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise OSError("no usable answer") from error
        if len(body) > _BODY_BYTES_MAX:
            raise OSError("an answer that is too long")
        return answer.status, body

    async def close(self) -> None:
        """Close every connection."""
        if self._client is not None:
            await self._client.close()
