"""Measures the gateway's own energy with CodeCarbon; off by default.

Every call blocks briefly; run them in a thread, off the request path. The tracker makes no network call. On a machine
without a power meter it models CPU by load and memory by a flat figure, so the result is an upper bound.
"""

import logging
from typing import Any

from ..values.units import JOULES_PER_KWH

log = logging.getLogger(__name__)

_GRAMS_PER_KG = 1000.0
_SAMPLE_SECONDS = 15


class OwnEnergyMeter:
    """Measures this process from the first reading on.

    energy_joules: energy so far, joules; 0 until the first reading.
    carbon_grams: emissions so far, gCO2e; 0 until the first reading.
    """

    def __init__(self, country: str) -> None:
        self._country = country
        self._tracker: Any = None
        self.energy_joules = 0.0
        self.carbon_grams = 0.0

    def read(self) -> None:
        """Takes a reading; the first call starts the tracker (about two seconds)."""
        if self._tracker is None:
            self._tracker = self._start_tracker()
        self._tracker.flush()

    def stop(self) -> None:
        """Stops the tracker and its threads."""
        if self._tracker is not None:
            self._tracker.stop()

    def _start_tracker(self) -> Any:
        # Lazy import: codecarbon loads pandas (180 MB), which only a gateway that measures itself needs.
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
        log.info("own_energy_measurement_started tracker=codecarbon country=%s", self._country)
        return tracker
