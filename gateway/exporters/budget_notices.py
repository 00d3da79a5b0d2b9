"""Budget notices: a log line, a count, and an event for the audit and webhook.

Sent once per account, percentage and window; for a rolling window at most once an hour.
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
    """Turns threshold crossings into notices; runs on the event loop and never waits.

    send: receives each event, for the audit and the webhook.
    counts: notices sent, by (budget, percent).
    """

    def __init__(self, send: Callable[[Mapping[str, Any]], None]) -> None:
        self._send = send
        self._sent_at: OrderedDict[tuple[str, int], float] = OrderedDict()
        self.counts: dict[tuple[str, str], int] = {}

    def notify(self, crossing: ThresholdCrossing) -> None:
        """Sends a notice that an account's spending reached a percentage of its limit."""
        line, key = crossing.line, (crossing.line.account, crossing.percent)
        sent_at = self._sent_at.get(key)
        if sent_at is not None and (not line.bucket_seconds or crossing.crossed_at - sent_at < _REPEAT_SECONDS):
            return
        self._sent_at[key] = crossing.crossed_at
        self._sent_at.move_to_end(key)
        if len(self._sent_at) > _SENT_MAX:
            self._sent_at.popitem(last=False)
        labels = (line.name, str(crossing.percent))
        self.counts[labels] = self.counts.get(labels, 0) + 1
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
        log.warning("budget_threshold_crossed budget=%s percent=%d", line.name, crossing.percent)
        self._send(event)
