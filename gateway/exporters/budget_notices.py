"""Notices about budgets: a line in the log, a count for the metrics, an event for the audit, and a webhook.

Told once per account, percentage and window; a rolling account that hovers around its mark is told once an hour.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from ..values.budget import UNITS, Crossing

log = logging.getLogger(__name__)

_TOLD_MAX = 10_000
_AGAIN_SECONDS = 3600.0


class Notices:
    """Hears of crossings on the event loop, waits for nobody. `send` gets each event: the webhook, the audit."""

    def __init__(self, send: Callable[[Mapping[str, Any]], None]) -> None:
        self._send = send
        self._told: OrderedDict[tuple[str, int], float] = OrderedDict()
        self.counts: dict[tuple[str, str], int] = {}

    def crossed(self, crossing: Crossing) -> None:
        """What was spent on an account has reached a percentage of its limit."""
        line, place = crossing.line, (crossing.line.account, crossing.percent)
        told_at = self._told.get(place)
        if told_at is not None and (not line.bucket_seconds or crossing.at - told_at < _AGAIN_SECONDS):
            return
        self._told[place] = crossing.at
        self._told.move_to_end(place)
        if len(self._told) > _TOLD_MAX:
            self._told.popitem(last=False)
        counted = (line.name, str(crossing.percent))
        self.counts[counted] = self.counts.get(counted, 0) + 1
        unit, scale = UNITS[line.measure]
        event = {
            "id": f"{line.account}:{crossing.percent}:{int(crossing.at)}".encode("ascii", "replace").decode(),
            "kind": "budget_threshold",
            "at": crossing.at,
            "budget": line.name,
            "account": line.account,
            "percent": crossing.percent,
            "unit": unit,
            "spent": crossing.spent / scale,
            "limit": line.budget.limit / scale,
            "resets_at": line.resets_at,
        }
        log.warning("budget '%s' has spent %d %% of its limit", line.name, crossing.percent)
        self._send(event)
