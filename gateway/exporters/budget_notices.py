"""Notices about budgets: a line in the log, a count for the metrics, an event for the audit, and a webhook.

Told once per account, percentage and window; a rolling account that hovers around its mark is told once an hour.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from ..values.budget import MEASURE_UNITS, ThresholdCrossing

log = logging.getLogger(__name__)

_SENT_MAX = 10_000
_REPEAT_SECONDS = 3600.0


class BudgetNotifier:
    """Hears of crossings on the event loop, waits for nobody. `send` gets each event: the webhook, the audit."""

    def __init__(self, send: Callable[[Mapping[str, Any]], None]) -> None:
        self._send = send
        self._sent_at: OrderedDict[tuple[str, int], float] = OrderedDict()
        self.counts: dict[tuple[str, str], int] = {}

    def notify(self, crossing: ThresholdCrossing) -> None:
        """What was spent on an account has reached a percentage of its limit."""
        line, place = crossing.line, (crossing.line.account, crossing.percent)
        told_at = self._sent_at.get(place)
        if told_at is not None and (not line.bucket_seconds or crossing.crossed_at - told_at < _REPEAT_SECONDS):
            return
        self._sent_at[place] = crossing.crossed_at
        self._sent_at.move_to_end(place)
        if len(self._sent_at) > _SENT_MAX:
            self._sent_at.popitem(last=False)
        counted = (line.name, str(crossing.percent))
        self.counts[counted] = self.counts.get(counted, 0) + 1
        unit, scale = MEASURE_UNITS[line.measure]
        event = {
            "id": f"{line.account}:{crossing.percent}:{int(crossing.crossed_at)}".encode("ascii", "replace").decode(),
            "kind": "budget_threshold",
            "at": crossing.crossed_at,
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
