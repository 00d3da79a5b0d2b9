"""The report as plain text: sessions, each pool by rule, each source by rule."""

from collections.abc import Callable, Iterator, Sequence

from .benchmark import ALL, REAL, SYNTHETIC, BenchmarkResult, Tallies, guard_cost_figures
from .clopper_pearson import clopper_pearson
from .penstock_rule import GuardCost
from .replay import PENSTOCK
from .rule_tally import RuleTally, median, p90, per_thousand, share
from .session_spend import NOMINAL_MODEL_TEXT, TokenPrices

_SOURCE_CHARS = 30
Row = Sequence[str]


def table(title: str, head: Row, rows: Sequence[Row]) -> str:
    """A plain-text table: title, header, the first column left-aligned, others right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(pairs)
        ).rstrip()
        for pairs in (list(zip(row, widths, strict=True)) for row in (head, *rows))
    ]
    return "\n".join([title, "", lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:], ""])


def render(report: BenchmarkResult, prices: TokenPrices) -> Iterator[str]:
    """The whole report, one section at a time."""
    yield _sessions_table(report)
    for pool in (REAL, SYNTHETIC):
        if pool in report.pools:
            yield from _pool_tables(pool, report.pools[pool])
    if len(report.sources) > 1:
        healthy, loops = "False stops / nudges of healthy sessions, by source", "Loops stopped / nudged, by source"
        yield from _by_source_table(healthy, report, _healthy_cell, lambda tally: tally.healthy)
        yield from _by_source_table(loops, report, _loops_cell, lambda tally: tally.loops)
    if PENSTOCK in report.rules:
        yield _guard_cost_text(report.guard_cost)
    yield _notes(report, prices)


def _sessions_table(report: BenchmarkResult) -> str:
    rows = []
    for source, tallies in [
        *_ordered_sources(report),
        *((pool, report.pools[pool]) for pool in (REAL, SYNTHETIC, ALL) if pool in report.pools),
    ]:
        tally = next(iter(tallies.values()))
        rows.append(
            [
                _shorten(source),
                *map(_format_count, (tally.healthy, tally.completed, tally.loops, tally.unknown, tally.healthy_calls)),
            ]
        )
    return table("Sessions", ("source", "healthy", "completed", "loop", "unknown", "healthy calls"), rows)


def _pool_tables(name: str, tallies: Tallies) -> Iterator[str]:
    tally = next(iter(tallies.values()))
    if tally.healthy or tally.completed:
        yield _false_alarms_table(f"{name}: healthy sessions ({tally.healthy:,}) stopped or nudged by mistake", tallies)
    if tally.loops:
        yield _loops_found_table(f"{name}: loop sessions ({tally.loops:,}) found, after their onset", tallies)
        yield _classes_table(f"{name}: loops stopped / nudged, by class", tallies)


def _false_alarms_table(title: str, tallies: Tallies) -> str:
    head = ("rule", "false stops", "95 %", "per 1,000 calls", "false nudges", "95 %", "completed stopped", "nudged")
    rows = [
        (
            name,
            _format_share(tally.false_stops, tally.healthy),
            _format_interval(tally.false_stops, tally.healthy),
            _format_number(per_thousand(tally.false_stops, tally.healthy_calls), ".2f"),
            _format_share(tally.false_nudges, tally.healthy),
            _format_interval(tally.false_nudges, tally.healthy),
            _format_share(tally.completed_stopped, tally.completed),
            _format_share(tally.completed_nudged, tally.completed),
        )
        for name, tally in tallies.items()
    ]
    return table(title, head, rows)


def _loops_found_table(title: str, tallies: Tallies) -> str:
    rule_columns = ("rule", "stopped", "95 %", "nudged", "too early", "wasted calls", "to nudge")
    saving_columns = ("calls saved", "tokens", "USD", "Wh", "USD saved", "Wh saved")
    return table(
        title, (*rule_columns, *saving_columns), [_loops_found_row(name, tally) for name, tally in tallies.items()]
    )


def _loops_found_row(name: str, tally: RuleTally) -> Row:
    saved, after = tally.saved_after_onset, tally.after_onset
    pairs = (
        (saved.call_count, after.call_count),
        (saved.tokens, after.tokens),
        (saved.usd, after.usd),
        (saved.wh, after.wh),
    )
    return (
        name,
        _format_share(tally.loops_stopped, tally.loops),
        _format_interval(tally.loops_stopped, tally.loops),
        _format_share(tally.loops_nudged, tally.loops),
        _format_count(tally.stops_before_onset),
        _format_wasted_calls(tally.wasted_calls_to_stop),
        _format_wasted_calls(tally.wasted_calls_to_nudge),
        *(_format_number(share(part, whole), ".0%") for part, whole in pairs),
        f"{tally.saved.usd:,.2f}",
        f"{tally.saved.wh:,.1f}",
    )


def _classes_table(title: str, tallies: Tallies) -> str:
    first = next(iter(tallies.values()))
    rows = [
        [
            name,
            _format_count(counts.loops),
            *(f"{tally.classes[name].stopped}/{tally.classes[name].nudged}" for tally in tallies.values()),
        ]
        for name, counts in sorted(first.classes.items())
    ]
    return table(title, ("class", "loops", *tallies), rows)


def _by_source_table(
    title: str, report: BenchmarkResult, cell: Callable[[RuleTally], str], size: Callable[[RuleTally], int]
) -> Iterator[str]:
    rows = []
    for source, tallies in _ordered_sources(report):
        count = size(next(iter(tallies.values())))
        if count:
            rows.append([_shorten(source), _format_count(count), *(cell(tally) for tally in tallies.values())])
    if rows:
        yield table(title, ("source", "sessions", *report.rules), rows)


def _healthy_cell(tally: RuleTally) -> str:
    return f"{tally.false_stops}/{tally.false_nudges}"


def _loops_cell(tally: RuleTally) -> str:
    return f"{tally.loops_stopped}/{tally.loops_nudged}"


def _guard_cost_text(cost: GuardCost) -> str:
    figures = guard_cost_figures(cost)
    return (
        "Cost of our detector, measured in this run (without parsing; state is an estimate from object sizes)\n\n"
        f"  {figures['microseconds_per_message']} µs per new message, {figures['microseconds_per_request']} µs per request "
        f"(p99 {figures['microseconds_per_request_p99']}), {figures['requests']:,} requests\n"
        f"  {figures['state_bytes_median']:,.0f} bytes of state per session in the median, "
        f"p90 {figures['state_bytes_p90']:,.0f}, at most {figures['state_bytes_max']:,.0f}\n"
    )


def _notes(report: BenchmarkResult, prices: TokenPrices) -> str:
    return (
        "Notes\n\n"
        "  false: a healthy session was solved and ended by itself. completed: ended by itself, not solved.\n"
        "  nudged: the rule's own warning to the model, or its stop. Rules without one are counted by their stop.\n"
        "  too early: stopped at or before the first looping call; not counted as found.\n"
        "  wasted calls: median / p90 of paid calls between onset and stop, of those found. The four shares are of\n"
        "  the usage of all loops after their onset.\n"
        f"  USD: as recorded in {report.recorded_cost_count} of the loops; else a list-price estimate: characters / 4 as "
        f"tokens, {prices.input:g} and\n  {prices.output:g} USD per million in and out, no prompt cache.\n"
        f"  Wh: nominal, not measured: {NOMINAL_MODEL_TEXT}.\n"
    )


def _ordered_sources(report: BenchmarkResult) -> list[tuple[str, Tallies]]:
    return sorted(report.sources.items(), key=lambda pair: (pair[0] in report.synthetic_sources, pair[0]))


def _shorten(source: str) -> str:
    return source if len(source) <= _SOURCE_CHARS else source[: _SOURCE_CHARS - 1] + "…"


def _format_count(number: int) -> str:
    return f"{number:,}" if number else "-"


def _format_share(part: int, whole: int) -> str:
    return f"{part:,} {part / whole:7.2%}" if whole else "-"


def _format_interval(part: int, whole: int) -> str:
    low, high = clopper_pearson(part, whole)
    return f"{low:.2%} - {high:.2%}" if whole else "-"


def _format_number(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def _format_wasted_calls(values: Sequence[int]) -> str:
    return f"{median(values):g} / {p90(values)}" if values else "-"
