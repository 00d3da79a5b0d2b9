"""The trial as plain text and as a picture."""

from collections.abc import Iterator
from pathlib import Path

from ....values.errors import ConfigError
from ..report import table
from .benchmark import MACRO, POOLED, RouterBenchmark, RouterResult
from .routers import PENSTOCK

_COLOURS = {PENSTOCK: "#0b6e4f", "random": "#999999", "length": "#c77d0a", "oracle": "#3d5a98"}


def render(trial: RouterBenchmark, own_labels: int) -> Iterator[str]:
    """The whole report, one piece at a time."""
    title = f"Our router, corrected by at most {own_labels} own labels of each source" if own_labels else "Our router"
    yield table(title, _COLUMNS, [_row(place, one, trial) for place, one in _ordered_sources(trial.results[PENSTOCK])])
    for aggregate, text in ((MACRO, "Macro (mean over sources)"), (POOLED, f"Pooled ({trial.family_count} families)")):
        rows = [_row(name, found[aggregate], trial, aggregate) for name, found in trial.results.items()]
        yield table(f"{text}, beside what it must beat", _COLUMNS, rows)
    yield (
        "APGR 0.5 is random. CPT50 and CPT80: share of frontier calls that recovers so much of the gap. Cost at 95 %: share\n"
        "of all-frontier's cost that keeps 95 % of its quality, a small call costing a tenth where no costs were logged; it\n"
        "is empty where all-small keeps as much. ECE: of the probability that the small model does not suffice. Budget\n"
        "error: mean gap between a frontier share asked for and given, in points of a share, 0.1 to 0.9 asked for.\n"
    )


_COLUMNS = (
    "",
    "n",
    "APGR",
    "95 %",
    "CPT50",
    "CPT80",
    "cost at 95 %",
    "all-small keeps",
    "AUC need",
    "ECE",
    "budget error",
)


def _row(name: str, one: RouterResult, trial: RouterBenchmark, place: str | None = None) -> list[str]:
    said, kept = one.measures, trial.small_quality_share.get(place or name)
    return [
        name, f"{one.prompt_count:,}", _format_number(said.apgr), f"{_format_number(one.apgr_low)}-{_format_number(one.apgr_high)}", _format_number(said.cpt50),
        _format_number(said.cpt80), _format_number(said.cost_at_95), "" if kept is None else f"{kept:.2f}", _format_number(said.auc_need),
        _format_number(said.ece), f"{one.budget_error:.3f}",
    ]  # fmt: skip


def _ordered_sources(found: dict[str, RouterResult]) -> list[tuple[str, RouterResult]]:
    sources = [(place, one) for place, one in found.items() if place not in (POOLED, MACRO)]
    return [*sources, (MACRO, found[MACRO]), (POOLED, found[POOLED])]


def _format_number(value: float) -> str:
    return "-" if value != value or value in (float("inf"), float("-inf")) else f"{value:.3f}"


def plot(trial: RouterBenchmark, path: Path) -> None:
    """The pooled curves as PNG. Raises ConfigError where the library for it is not installed."""
    try:
        # The one lazy door of this room: a plotting library is much to load for a table.
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(["plots need matplotlib: pip install 'penstock[plot]'"]) from error
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    quality, gap = figure.subplots(1, 2)
    for name, line in trial.curves.items():
        colour, width = _COLOURS.get(name), 2.4 if name == PENSTOCK else 1.3
        quality.plot(line.cost, line.quality, label=name, color=colour, linewidth=width)
        gap.plot(
            line.share,
            line.pgr,
            color=colour,
            linewidth=width,
            label=f"{name} (APGR {trial.results[name][POOLED].measures.apgr:.3f})",
        )
    ours = trial.curves[PENSTOCK]
    quality.axhline(0.95 * ours.quality[-1], color="#bbbbbb", linestyle=":", linewidth=1)
    quality.annotate(
        "95 % of the frontier",
        (float(ours.cost[0]), 0.95 * float(ours.quality[-1])),
        fontsize=8,
        va="bottom",
        color="#777777",
    )
    quality.set(xlabel="cost, share of all-frontier", ylabel="mean quality", title="Quality by cost, pooled")
    gap.set(
        xlabel="share of prompts on the frontier",
        ylabel="share of the gap recovered",
        title="Performance gap recovered, pooled",
    )
    for axes in (quality, gap):
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130, format="png")
