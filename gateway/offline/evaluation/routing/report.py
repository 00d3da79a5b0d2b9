"""The routing benchmark as plain text and as a plot."""

from collections.abc import Iterator
from pathlib import Path

from ....values.errors import ConfigError
from ..report import table
from .benchmark import MACRO, POOLED, RouterBenchmark, RouterResult
from .routers import PENSTOCK

_COLORS = {PENSTOCK: "#0b6e4f", "random": "#999999", "length": "#c77d0a", "oracle": "#3d5a98"}


def render(benchmark: RouterBenchmark, own_labels: int) -> Iterator[str]:
    """The whole report, one section at a time."""
    title = f"Our router, corrected by at most {own_labels} own labels of each source" if own_labels else "Our router"
    yield table(
        title,
        _COLUMNS,
        [_row(source, result, benchmark) for source, result in _ordered_sources(benchmark.results[PENSTOCK])],
    )
    for aggregate, text in (
        (MACRO, "Macro (mean over sources)"),
        (POOLED, f"Pooled ({benchmark.family_count} families)"),
    ):
        rows = [_row(name, results[aggregate], benchmark, aggregate) for name, results in benchmark.results.items()]
        yield table(f"{text}, with baselines", _COLUMNS, rows)
    yield (
        "APGR 0.5 is random. CPT50 and CPT80: share of frontier calls that recovers 50 and 80 % of the gap. Cost at\n"
        "95 %: share of all-frontier's cost that keeps 95 % of its quality, a small call costing a tenth where no costs\n"
        "were logged; empty where all-small keeps as much. ECE: of the probability that the small model does not suffice.\n"
        "Budget error: mean gap between target and actual frontier shares, targets from 0.1 to 0.9.\n"
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


def _row(name: str, result: RouterResult, benchmark: RouterBenchmark, source: str | None = None) -> list[str]:
    figures, small_quality = result.measures, benchmark.small_quality_share.get(source or name)
    return [
        name, f"{result.prompt_count:,}", _format_number(figures.apgr),
        f"{_format_number(result.apgr_low)}-{_format_number(result.apgr_high)}", _format_number(figures.cpt50),
        _format_number(figures.cpt80), _format_number(figures.cost_at_95),
        "" if small_quality is None else f"{small_quality:.2f}", _format_number(figures.auc_need), _format_number(figures.ece), f"{result.budget_error:.3f}",
    ]  # fmt: skip


def _ordered_sources(results: dict[str, RouterResult]) -> list[tuple[str, RouterResult]]:
    sources = [(source, result) for source, result in results.items() if source not in (POOLED, MACRO)]
    return [*sources, (MACRO, results[MACRO]), (POOLED, results[POOLED])]


def _format_number(value: float) -> str:
    return "-" if value != value or value in (float("inf"), float("-inf")) else f"{value:.3f}"


def plot(benchmark: RouterBenchmark, path: Path) -> None:
    """The pooled curves as PNG. Raises ConfigError without the plotting library."""
    try:
        # Lazy, as a plotting library is slow to load.
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(["plots need matplotlib: pip install 'penstock[plot]'"]) from error
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    quality, gap = figure.subplots(1, 2)
    for name, line in benchmark.curves.items():
        color, width = _COLORS.get(name), 2.4 if name == PENSTOCK else 1.3
        quality.plot(line.cost, line.quality, label=name, color=color, linewidth=width)
        gap.plot(
            line.share,
            line.pgr,
            color=color,
            linewidth=width,
            label=f"{name} (APGR {benchmark.results[name][POOLED].measures.apgr:.3f})",
        )
    ours = benchmark.curves[PENSTOCK]
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
