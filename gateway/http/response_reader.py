"""Reads a provider's response on top of its chunks; shared by the clients of providers."""

import asyncio
from typing import Protocol

from ..values.errors import BrokenResponse


class ResponseReader(Protocol):
    """A response that is read chunk by chunk: whole, or as much as arrives within a time."""

    async def read_chunk(self) -> bytes: ...

    async def read_chunk_within(self, seconds: float) -> bytes | None:
        """Like `read_chunk`; None after `seconds` without bytes. A timeout loses none."""
        try:
            async with asyncio.timeout(seconds) as timer:
                return await self.read_chunk()
        except TimeoutError:
            # `read_chunk` translates its own timeouts.
            assert timer.expired()
            return None

    async def read(self, limit: int) -> bytes:
        """Returns the whole response, at most `limit` bytes. Raises UpstreamError."""
        parts, size = [], 0
        while data := await self.read_chunk():
            size += len(data)
            if size > limit:
                raise BrokenResponse(f"Provider response larger than {limit} bytes.")
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)
