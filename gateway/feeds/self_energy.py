"""What the gateway itself takes, as CodeCarbon's offline tracker sees this process: off by default, off the request path.

Every call blocks for a moment; run them in a thread. The tracker makes no network call. Where the machine has no power
meter it models: CPU by load and a flat figure for memory, so the result is an upper bound.
"""

import logging
from typing import Any

from ..values.units import JOULES_PER_KWH

log = logging.getLogger(__name__)

_GRAMS_PER_KG = 1000.0
_SAMPLE_SECONDS = 15


class SelfMeter:
    """Joules and gCO2e since `start`; both 0 until the first reading."""

    def __init__(self, country: str) -> None:
        self._country = country
        self._tracker: Any = None
        self.energy_joules = 0.0
        self.carbon_grams = 0.0

    def read(self) -> None:
        """Take a reading; the first call starts the tracker (about two seconds)."""
        if self._tracker is None:
            self._tracker = self._start_tracker()
        self._tracker.flush()

    def stop(self) -> None:
        """End the tracker and its threads."""
        if self._tracker is not None:
            self._tracker.stop()

    def _start_tracker(self) -> Any:
        # Lazy door: codecarbon brings pandas, 180 MB that a gateway which does not measure itself never loads.
        from codecarbon import OfflineEmissionsTracker  # noqa: PLC0415
        from codecarbon.output_methods.base_output import BaseOutput  # noqa: PLC0415

        meter = self

        class Reading(BaseOutput):
            def out(self, total: Any, delta: Any) -> None:
                meter.energy_joules = total.energy_consumed * JOULES_PER_KWH
                meter.carbon_grams = total.emissions * _GRAMS_PER_KG

        tracker = OfflineEmissionsTracker(
            country_iso_code=self._country,
            measure_power_secs=_SAMPLE_SECONDS,
            tracking_mode="process",
            save_to_file=False,
            allow_multiple_runs=True,
            log_level="error",
            output_handlers=[Reading()],
        )
        tracker.start()
        log.info("measuring the gateway's own energy (CodeCarbon, modelled where there is no meter)")
        return tracker
