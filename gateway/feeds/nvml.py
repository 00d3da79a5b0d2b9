"""Reads the energy counters of local NVIDIA GPUs (Volta or newer) through NVML.

Needs nvidia-ml-py, which codecarbon installs. Every call blocks for about a millisecond; run it in a thread.
"""

from typing import Any

_MILLIJOULES_PER_JOULE = 1000.0


class Nvml:
    """A connection to the driver, opened at the first reading."""

    def __init__(self) -> None:
        self._library: Any = None

    def joules(self, gpus: tuple[str, ...]) -> dict[str, float]:
        """Returns GPU UUID -> joules since the driver was loaded.

        `gpus` selects by index or UUID (empty: all).

        Raises OSError without a driver, or for a GPU without an energy counter.
        """
        library = self._open_library()
        joules: dict[str, float] = {}
        try:
            for index in range(library.nvmlDeviceGetCount()):
                handle = library.nvmlDeviceGetHandleByIndex(index)
                uuid = str(library.nvmlDeviceGetUUID(handle))
                if not gpus or str(index) in gpus or uuid in gpus:
                    joules[uuid] = library.nvmlDeviceGetTotalEnergyConsumption(handle) / _MILLIJOULES_PER_JOULE
        except library.NVMLError as error:
            raise OSError(f"NVML: {error}") from error
        return joules

    def _open_library(self) -> Any:
        if self._library is None:
            # Lazy import: most gateways have no GPU.
            import pynvml  # noqa: PLC0415

            try:
                pynvml.nvmlInit()
            except pynvml.NVMLError as error:
                raise OSError(f"NVML: {error}") from error
            self._library = pynvml
        return self._library
