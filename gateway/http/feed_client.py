"""HTTP client for feeds, serving engines and meters, off the request path."""

import asyncio
from collections.abc import Mapping

import aiohttp

from .proxies import NO_PROXIES, InvalidProxy, Proxies

# A slower feed is polled again later. A day's forecast is about 20 kB, a busy DCGM page 1 MB.
_TIMEOUT_SECONDS = 5.0
_BODY_BYTES_MAX = 4 * 1024 * 1024


class FeedClient:
    """Fetches URLs, directly or through a proxy; opens its aiohttp session at the first request."""

    def __init__(self, proxies: Proxies = NO_PROXIES) -> None:
        self._proxies = proxies
        self._client: aiohttp.ClientSession | None = None

    async def get(self, url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Returns (status, body).

        Redirects are not followed: they would send the key to another host. Raises OSError or TimeoutError, whose
        texts contain neither URL nor headers.
        """
        if self._client is None:
            self._client = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS), headers={"User-Agent": "penstock"}
            )
        try:
            async with (
                asyncio.timeout(_TIMEOUT_SECONDS),
                self._client.get(
                    url, headers=headers, allow_redirects=False, proxy=self._proxies.proxy_of(url)
                ) as response,
            ):
                body = await response.content.read(_BODY_BYTES_MAX + 1)
                while not response.content.at_eof() and len(body) <= _BODY_BYTES_MAX:
                    body += await response.content.read(_BODY_BYTES_MAX + 1 - len(body))
        except TimeoutError:
            raise TimeoutError("timed out") from None
        except aiohttp.ClientConnectionError as error:
            raise OSError("connection failed") from error
        except InvalidProxy as error:
            raise OSError(str(error)) from error
        except (aiohttp.ClientError, ValueError) as error:
            raise OSError("invalid response") from error
        if len(body) > _BODY_BYTES_MAX:
            raise OSError("response too large")
        return response.status, body

    async def close(self) -> None:
        """Closes every connection."""
        if self._client is not None:
            await self._client.close()
