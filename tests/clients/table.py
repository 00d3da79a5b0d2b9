"""Renders the outcomes as Markdown: one table per profile, and the failures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .clients import SCENARIOS

if TYPE_CHECKING:
    from .run import Outcome


def render(outcomes: Sequence[Outcome]) -> str:
    """The tables. A cell shows success and the number of model requests; empty: not offered by the client."""
    profiles = list(dict.fromkeys(outcome.job.profile for outcome in outcomes))
    parts = [
        _table(profile, [outcome for outcome in outcomes if outcome.job.profile == profile]) for profile in profiles
    ]
    failed = [outcome for outcome in outcomes if outcome.ok is False]
    if failed:
        parts.append(
            "\n".join(["### Failed", "", *(f"- `{outcome.job.name}`: {_short(outcome.detail)}" for outcome in failed)])
        )
    return "\n\n".join(parts)


def _table(profile: str, outcomes: Sequence[Outcome]) -> str:
    scenarios = [name for name in SCENARIOS if any(outcome.job.scenario == name for outcome in outcomes)]
    cells = {(outcome.job.client.name, outcome.job.scenario): _cell(outcome) for outcome in outcomes}
    clients = dict.fromkeys(outcome.job.client.name for outcome in outcomes)
    passed, total = sum(outcome.ok is True for outcome in outcomes), sum(outcome.ok is not None for outcome in outcomes)
    rows = [
        f"### {profile}: {passed} of {total}",
        "",
        f"| client | {' | '.join(scenarios)} |",
        f"|---|{'---|' * len(scenarios)}",
        *(f"| {client} | {' | '.join(cells.get((client, name), '') for name in scenarios)} |" for client in clients),
    ]
    return "\n".join(rows)


def _cell(outcome: Outcome) -> str:
    return {True: f"ok {outcome.requests}", False: f"**no** {outcome.requests}", None: ""}[outcome.ok]


def _short(detail: str) -> str:
    return " ".join(detail.split())[:400]
