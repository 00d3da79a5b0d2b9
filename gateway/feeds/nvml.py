"""This machine's own GPUs: joules since the driver was loaded, by NVML (nvidia-ml-py, which codecarbon brings). Volta or newer.

Every call blocks for about a millisecond; run it in a thread.
"""

from typing import Any

_MILLIJOULES_PER_JOULE = 1000.0


class Nvml:
    """A handle on the driver, opened at the first reading."""

    def __init__(self) -> None:
        self._library: Any = None

    def joules(self, gpus: tuple[str, ...]) -> dict[str, float]:
        """GPU (UUID) -> joules; `gpus` by index or UUID (empty: all). Raises OSError where there is no driver, or a GPU that
        does not count its energy."""
        library = self._open_library()
        found: dict[str, float] = {}
        try:
            for index in range(library.nvmlDeviceGetCount()):
                handle = library.nvmlDeviceGetHandleByIndex(index)
                uuid = str(library.nvmlDeviceGetUUID(handle))
                if not gpus or str(index) in gpus or uuid in gpus:
                    found[uuid] = library.nvmlDeviceGetTotalEnergyConsumption(handle) / _MILLIJOULES_PER_JOULE
        except library.NVMLError as error:
            raise OSError(f"NVML: {error}") from error
        return found

    def _open_library(self) -> Any:
        if self._library is None:
            # Lazy door: most gateways have no GPU, and never load NVML.
            import pynvml  # noqa: PLC0415

            try:
                pynvml.nvmlInit()
            except pynvml.NVMLError as error:
                raise OSError(f"NVML: {error}") from error
            self._library = pynvml
        return self._library
