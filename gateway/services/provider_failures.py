"""Logs provider failures: calls without an answer, refused keys, circuit breakers that open and close.

One line a minute for each deployment and event; the next one counts those that were left out. Providers' texts are not
logged, because they may quote the request.
"""

import logging
from collections.abc import Callable

from ..pipeline.context import AttemptProgress, RequestContext
from ..routing.circuit_breaker import CircuitBreakers
from ..values.ledger_entry import LedgerEntry

log = logging.getLogger(__name__)

# Seconds between two lines of one event at one deployment: the pace of a breaker's probes during a long outage.
_REPEAT_SECONDS = 60.0
# Ledger code of a failed attempt -> event. Rate limits are no outage, and what a provider refuses as the caller's mistake
# is none either.
_EVENTS = {
    "upstream_error": "provider_call_failed",
    "upstream_unreachable": "provider_call_failed",
    "upstream_timeout": "provider_call_failed",
    "upstream_invalid_response": "provider_call_failed",
    "provider_account": "provider_account_refused",
    "provider_model_not_found": "provider_model_not_found",
    "usage_request_refused": "provider_field_refused",
}
# Statuses of a refused key (RFC 9110); of others, such as 402 and 429, a payment or a quota is the cause.
_KEY_STATUSES = (401, 403)


class ProviderFailureLog:
    """Logs failures of attempts as they end; keeps one time and one count per deployment and event.

    circuit_breakers: read after each attempt, to log what has changed
    monotonic: seconds of a clock that never goes back
    """

    def __init__(self, circuit_breakers: CircuitBreakers, monotonic: Callable[[], float]) -> None:
        self._circuit_breakers = circuit_breakers
        self._monotonic = monotonic
        # Deployment -> when its breaker opened.
        self._open_since: dict[str, float] = {}
        # (deployment, event) -> (when the last line was written, attempts since then).
        self._written: dict[tuple[str, str], tuple[float, int]] = {}

    def call_ended(self, context: RequestContext, progress: AttemptProgress, entry: LedgerEntry) -> None:
        """Log the failure of an attempt, and what it changed in the circuit breaker."""
        now, name = self._monotonic(), entry.deployment
        event = _EVENTS.get(entry.code) if entry.outcome in ("upstream_error", "cut") else None
        was_open = name in self._open_since
        if event is not None and not (was_open and event == "provider_call_failed"):
            self._write(_event_of(event, progress), now, context, progress, entry)
        if event is None and not was_open:
            return
        is_open = self._circuit_breakers.is_open(name)
        if is_open and (not was_open or progress.is_probe):
            self._open_since.setdefault(name, now)
            seconds = self._circuit_breakers.state(name, now=now).open_seconds
            log.warning(
                "circuit_breaker_%s deployment=%s provider=%s model=%s reason=%s status=%d open_seconds=%.3g outage_seconds=%.0f"
                " request=%s",
                "reopened" if was_open else "opened",
                name,
                entry.provider,
                entry.model,
                entry.code,
                progress.upstream_status,
                seconds,
                now - self._open_since[name],
                context.request_id,
            )
        elif was_open and not is_open:
            log.warning(
                "circuit_breaker_closed deployment=%s provider=%s outage_seconds=%.0f request=%s",
                name,
                entry.provider,
                now - self._open_since.pop(name),
                context.request_id,
            )

    def _write(
        self, event: str, now: float, context: RequestContext, progress: AttemptProgress, entry: LedgerEntry
    ) -> None:
        """Write a line, or count it where one was written within the last minute."""
        last, left_out = self._written.get((entry.deployment, event), (None, 0))
        if last is not None and now - last < _REPEAT_SECONDS:
            self._written[entry.deployment, event] = (last, left_out + 1)
            return
        self._written[entry.deployment, event] = (now, 0)
        log.log(
            logging.WARNING if event == "provider_call_failed" else logging.ERROR,
            "%s deployment=%s provider=%s model=%s reason=%s status=%d repeats=%d request=%s",
            event,
            entry.deployment,
            entry.provider,
            entry.model,
            entry.code,
            progress.upstream_status,
            left_out,
            context.request_id,
        )


def _event_of(event: str, progress: AttemptProgress) -> str:
    """The event, `provider_key_refused` where the provider rejected the key itself."""
    is_key = event == "provider_account_refused" and progress.upstream_status in _KEY_STATUSES
    return "provider_key_refused" if is_key else event
