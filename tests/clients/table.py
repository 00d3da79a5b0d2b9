"""What came out, as markdown: one table a profile, and a list of what failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .clients import SCENARIOS

if TYPE_CHECKING:
    from .run import Outcome


def render(outcomes: Sequence[Outcome]) -> str:
    """A cell holds whether it worked and how many requests asked a model; empty: the client has no such thing."""
    profiles = list(dict.fromkeys(outcome.job.profile for outcome in outcomes))
    parts = [_table(profile, [one for one in outcomes if one.job.profile == profile]) for profile in profiles]
    failed = [outcome for outcome in outcomes if outcome.ok is False]
    if failed:
        parts.append("\n".join(["### Failed", "", *(f"- `{one.job.name}`: {_short(one.detail)}" for one in failed)]))
    return "\n\n".join(parts)


def _table(profile: str, outcomes: Sequence[Outcome]) -> str:
    scenarios = [name for name in SCENARIOS if any(one.job.scenario == name for one in outcomes)]
    cells = {(one.job.client.name, one.job.scenario): _cell(one) for one in outcomes}
    clients = dict.fromkeys(one.job.client.name for one in outcomes)
    good, all_of_them = sum(one.ok is True for one in outcomes), sum(one.ok is not None for one in outcomes)
    rows = [
        f"### {profile}: {good} of {all_of_them}",
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
