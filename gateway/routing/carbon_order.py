"""Of candidates that will do, the one that takes the least: put first where the operator prefers that to the cheapest. Pure.

Two estimates of the same provider and hour share most of what is unknown of them (batch, server, PUE), so mids are compared;
what is not shared is why a gain must be worth it (`gain_min`) before anything is moved, and why what was chosen last is
compared with, not what is cheapest now: else two grids of nearly the same intensity would take turns.
"""

from collections.abc import Sequence

from ..values.catalog import Tier
from ..values.energy_policy import EnergyPreferences
from ..values.units import MICROGRAMS_PER_GRAM, MILLIJOULES_PER_WH
from .rules.candidate import Candidate

RankedCandidate = tuple[Candidate, float]


def put_greenest_first(
    order: Sequence[RankedCandidate], green: EnergyPreferences, *, least: Tier, chosen: str
) -> tuple[list[RankedCandidate], str]:
    """The order with the greener first, and why it is ("" where nothing was moved). Tiers from `least` on will do; `chosen` is
    the deployment that the same kind of request went to last ("" for none).

    The first is only moved for what is known to be better: not if its own figure is not known.
    """
    ranked = list(order)
    ready = [place for place, (one, _) in enumerate(ranked) if not (one.deprioritized or one.misses_deadline)]
    if green.prefer == "cost":
        equals = _within_latency(ranked, ready, green)
    else:
        equals = [place for place in ready if ranked[place][0].deployment.tier >= least]
    amount, told = (_grid_grams_per_kwh, "on a cleaner grid") if green.prefer == "cost" else (_MEASURES[green.prefer])
    known = {place: value for place in equals if (value := amount(ranked[place][0])) is not None}
    if 0 not in known:
        return ranked, ""
    # What was chosen last is stayed with as long as it is no worse than the first.
    last = next((place for place in known if ranked[place][0].deployment.name == chosen), 0)
    before = last if known[last] <= known[0] else 0
    best = min(known, key=lambda place: (known[place], place))
    if known[best] > (1 - green.gain_share_min) * known[before]:
        best = before
    if known[best] >= known[0]:
        return ranked, ""
    why = f"{told}: {_format_amount(known[best], green)} against {_format_amount(known[0], green)}"
    return [ranked[best], *ranked[:best], *ranked[best + 1 :]], why


def _within_latency(ranked: Sequence[RankedCandidate], ready: Sequence[int], green: EnergyPreferences) -> list[int]:
    """The first, and places of its tier whose first byte comes about as soon as the quickest's and that leave no warm cache
    behind. One that was not called yet has a chance: how quick it is will be known then."""
    assert green.cleanest_within_ms is not None, "one of the two is asked for"
    first = ranked[0][0]
    same = [place for place in ready if ranked[place][0].deployment.tier == first.deployment.tier]
    waits = {place: ranked[place][0].load.first_byte_ms for place in same}
    quickest = min((wait for wait in waits.values() if wait), default=0.0)
    return [
        place
        for place, wait in waits.items()
        if place == 0
        or (
            (not first.cache_warm or ranked[place][0].cache_warm)
            and (not wait or wait <= quickest + green.cleanest_within_ms)
        )
    ]


def _grid_grams_per_kwh(one: Candidate) -> float | None:
    intensity = one.deployment.intensity
    if one.intensity_signal == "marginal":
        return intensity.marginal_grams_per_kwh
    return intensity.grams_per_kwh if intensity.method != "world" else None


def _expected_millijoules(one: Candidate) -> float | None:
    return one.expected_millijoules if one.deployment.energy_models is not None else None


def _expected_micrograms(one: Candidate) -> float | None:
    known = one.deployment.energy_models is not None and one.deployment.intensity.method != "world"
    return one.expected_micrograms if known else None


_MEASURES = {"energy": (_expected_millijoules, "takes less energy"), "carbon": (_expected_micrograms, "emits less")}


def _format_amount(value: float, green: EnergyPreferences) -> str:
    if green.prefer == "energy":
        return f"{value / MILLIJOULES_PER_WH:.3g} Wh"
    if green.prefer == "carbon":
        return f"{value / MICROGRAMS_PER_GRAM:.3g} g"
    return f"{value:.3g} g/kWh"
