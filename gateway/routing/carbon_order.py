"""Carbon order: puts the greenest candidate first, if preferred. Pure.

Estimates of the same provider and hour share most of their uncertainty (batch, server, PUE), so mids are compared. What
they do not share is why a gain must reach `gain_share_min` before the order changes, and why the comparison is with the
deployment chosen last, not with the cheapest now: else two grids of nearly equal intensity would alternate.
"""

from collections.abc import Sequence

from ..values.catalog import Tier
from ..values.energy_policy import EnergyPreferences
from ..values.units import MICROGRAMS_PER_GRAM, MILLIJOULES_PER_WH
from .rules.candidate import Candidate

RankedCandidate = tuple[Candidate, float]


def put_lowest_carbon_first(
    order: Sequence[RankedCandidate], green: EnergyPreferences, *, least: Tier, chosen: str
) -> tuple[list[RankedCandidate], str]:
    """(the order with the greener candidate first, the reason or "").

    least: lowest tier that suffices
    chosen: deployment that served the same kind of request last, "" for none

    Nothing moves if the figure of the present first is unknown: it may not be worse.
    """
    ranked = list(order)
    ready = [
        place
        for place, (candidate, _) in enumerate(ranked)
        if not (candidate.deprioritized or candidate.misses_deadline)
    ]
    if green.prefer == "cost":
        equals = _within_latency(ranked, ready, green)
    else:
        equals = [place for place in ready if ranked[place][0].deployment.tier >= least]
    figure, gain = (_grid_grams_per_kwh, "cleaner grid") if green.prefer == "cost" else _MEASURES[green.prefer]
    figures = {place: value for place in equals if (value := figure(ranked[place][0])) is not None}
    if 0 not in figures:
        return ranked, ""
    # The last choice is kept as long as it is no worse than the first.
    last = next((place for place in figures if ranked[place][0].deployment.name == chosen), 0)
    before = last if figures[last] <= figures[0] else 0
    best = min(figures, key=lambda place: (figures[place], place))
    if figures[best] > (1 - green.gain_share_min) * figures[before]:
        best = before
    if figures[best] >= figures[0]:
        return ranked, ""
    reason = f"{gain}: {_format_amount(figures[best], green)} vs {_format_amount(figures[0], green)}"
    return [ranked[best], *ranked[:best], *ranked[best + 1 :]], reason


def _within_latency(ranked: Sequence[RankedCandidate], ready: Sequence[int], green: EnergyPreferences) -> list[int]:
    """The first place and those of its tier as quick, without losing a warm cache.

    A deployment without a measured latency counts as quick: its first call measures it.
    """
    assert green.cleanest_within_ms is not None, "prefer is cost, so cleanest_within_ms is set"
    first = ranked[0][0]
    same = [place for place in ready if ranked[place][0].deployment.tier == first.deployment.tier]
    waits_ms = {place: ranked[place][0].load.first_byte_ms for place in same}
    quickest = min((wait for wait in waits_ms.values() if wait), default=0.0)
    return [
        place
        for place, wait in waits_ms.items()
        if place == 0
        or (
            (not first.cache_warm or ranked[place][0].cache_warm)
            and (not wait or wait <= quickest + green.cleanest_within_ms)
        )
    ]


def _grid_grams_per_kwh(candidate: Candidate) -> float | None:
    intensity = candidate.deployment.intensity
    if candidate.intensity_signal == "marginal":
        return intensity.marginal_grams_per_kwh
    return intensity.grams_per_kwh if intensity.method != "world" else None


def _expected_millijoules(candidate: Candidate) -> float | None:
    return candidate.expected_millijoules if candidate.deployment.energy_models is not None else None


def _expected_micrograms(candidate: Candidate) -> float | None:
    known = candidate.deployment.energy_models is not None and candidate.deployment.intensity.method != "world"
    return candidate.expected_micrograms if known else None


_MEASURES = {"energy": (_expected_millijoules, "less energy"), "carbon": (_expected_micrograms, "less carbon")}


def _format_amount(value: float, green: EnergyPreferences) -> str:
    if green.prefer == "energy":
        return f"{value / MILLIJOULES_PER_WH:.3g} Wh"
    if green.prefer == "carbon":
        return f"{value / MICROGRAMS_PER_GRAM:.3g} g"
    return f"{value:.3g} g/kWh"
