"""The figures: intervals, loops found, savings, and both report formats."""

import json
import math

import pytest

from gateway.cli.main import main
from gateway.offline.evaluation import benchmark
from gateway.offline.evaluation.clopper_pearson import clopper_pearson
from gateway.offline.evaluation.penstock_rule import GuardCost, deep_size, loop_limits
from gateway.offline.evaluation.published_rules import Level
from gateway.offline.evaluation.recordings import Recording
from gateway.offline.evaluation.replay import RULE_NAMES, RuleLevels, replay, rule_factories
from gateway.offline.evaluation.rule_tally import RuleTally, median, p90
from gateway.offline.evaluation.session_spend import Spend, TokenPrices, call_spends
from tests.offline.evaluation.trajectories import circle, line, recording, step

KEYS = {
    "healthy", "false_stops", "false_nudges", "loops", "loops_stopped", "loops_nudged", "wasted_calls_median",
    "spend_saved_usd",
}  # fmt: skip


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 1897, 0.0, 0.00194),
        (3, 2194, 0.00028, 0.00399),
        (5, 10, 0.18709, 0.81291),
        (10, 10, 0.69150, 1.0),
        (1, 1, 0.025, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_intervals_are_clopper_and_pearsons(successes, trials, low, high):
    assert clopper_pearson(successes, trials) == pytest.approx((low, high), abs=1e-5)


def test_at_the_bounds_each_tail_has_half_the_remaining_probability():
    def tail(ks, p):
        return sum(math.comb(234, k) * p**k * (1 - p) ** (234 - k) for k in ks)

    low, high = clopper_pearson(190, 234)
    assert tail(range(190, 235), low) == pytest.approx(0.025, abs=1e-9)
    assert tail(range(191), high) == pytest.approx(0.025, abs=1e-9)


def tally_of(loop: Recording, *levels: Level) -> RuleTally:
    """The tally of one loop in which a rule had these levels."""
    tally = RuleTally()
    tally.add(
        loop, RuleLevels(levels=levels), [Spend(call_count=1, tokens=10, usd=1.0, wh=0.1)] * len(loop.answer_positions)
    )
    return tally


NONE, NUDGE, STOP = Level.none, Level.nudge, Level.stop
LOOP = recording(circle(9), label="loop", loop_class="exact", onset=2)


def test_a_stop_after_onset_finds_the_loop_and_wastes_the_calls_between():
    tally = tally_of(LOOP, NONE, NONE, NONE, NUDGE, NONE, STOP)
    assert (tally.loops, tally.loops_stopped, tally.loops_nudged) == (1, 1, 1)
    assert (tally.wasted_calls_to_stop, tally.wasted_calls_to_nudge) == ([3], [1])
    assert (tally.after_onset.call_count, tally.saved_after_onset.call_count, tally.saved.usd) == (8, 5, 5.0)


def test_a_stop_at_the_onset_finds_nothing():
    tally = tally_of(LOOP, NONE, NONE, STOP)
    assert (tally.loops_stopped, tally.stops_before_onset, tally.nudges_before_onset) == (0, 1, 1)
    assert (tally.saved.usd, tally.wasted_calls_to_stop) == (0.0, [])


def test_a_loop_without_onset_counts_but_has_no_wasted_calls_and_no_shares():
    tally = tally_of(recording(circle(9), label="loop"), NONE, STOP)
    assert (tally.loops, tally.loops_stopped, tally.wasted_calls_to_stop) == (1, 1, [])
    assert (tally.saved.call_count, tally.after_onset.call_count) == (9, 0)


def test_a_stop_is_a_nudge_too_for_healthy_and_completed_sessions():
    tally = RuleTally()
    for label, levels in (
        ("healthy", (NONE, STOP)),
        ("healthy", (NUDGE, NONE)),
        ("completed", (STOP,)),
        ("unknown", (STOP,)),
    ):
        tally.add(recording(circle(2), label=label), RuleLevels(levels=levels), ())
    assert (tally.healthy, tally.false_stops, tally.false_nudges, tally.healthy_calls) == (2, 1, 2, 6)
    assert (tally.completed_stopped, tally.completed_nudged, tally.unknown_stopped) == (1, 1, 1)


def test_the_median_and_the_ninetieth_percentile():
    assert (median([1, 2, 3, 10]), p90([1, 2, 3, 10]), p90(list(range(1, 11)))) == (2.5, 10, 9)
    assert (median([]), p90([])) == (None, None)


def test_recorded_dollars_are_distributed_else_estimated():
    session = recording([{"role": "user", "content": "x" * 4000}, *step(1), *step(2)])
    listed = call_spends(session, TokenPrices(input=3.0, output=15.0))
    assert listed[0].usd == pytest.approx((1000 * 3 + 1 * 15) / 1e6)
    assert listed[1].tokens > listed[0].tokens
    assert all(spend.wh > 0 for spend in listed)
    recorded = call_spends(recording(list(session.messages), cost_usd=4.0), TokenPrices())
    assert sum(spend.usd for spend in recorded) == pytest.approx(4.0)
    assert recorded[0].usd / recorded[1].usd == pytest.approx(listed[0].usd / listed[1].usd)


def test_a_cut_text_costs_its_original_length():
    cut = {"role": "user", "content": "x [cut]", "_chars": 40_000}
    assert call_spends(recording([cut, *step(1)]), TokenPrices())[0].tokens >= 10_000


def test_every_rule_is_evaluated_up_to_its_stop():
    levels = replay(recording(circle(30)), rule_factories(RULE_NAMES, loop_limits(None), GuardCost()))
    assert set(levels) == set(RULE_NAMES)
    stops = {name: reached.first_reaching(Level.stop) for name, reached in levels.items()}
    assert stops["opencode"] == 3
    assert stops["roo_cline"] == 4
    assert stops["openhands"] == 3
    assert stops["cap_25"] == 25
    assert stops["cap_50"] is None
    assert stops["penstock"] is not None
    assert len(levels["opencode"].levels) == 4


def test_a_lower_threshold_stops_our_guard_earlier():
    def stop(threshold):
        levels = replay(recording(circle(60)), rule_factories(["penstock"], loop_limits(threshold), GuardCost()))[
            "penstock"
        ]
        return levels.first_reaching(Level.stop)

    assert stop(6) < stop(12)


def test_the_size_of_state_includes_its_contents():
    assert deep_size({"a": [1, 2]}, set()) > deep_size({}, set())
    assert deep_size([RuleTally(), int], set()) > 0


def data(path):
    """Two real sessions and a synthetic one."""
    lines = (
        line(circle(3, new=3)),
        line(circle(20), id="s/2", label="loop", loop_class="exact", loop_onset_call=1, cost_usd=2.1),
        line(circle(20), id="syn/3", label="loop", loop_class="syn_exact", loop_onset_call=1),
    )
    path.write_text("".join(json.dumps(session) + "\n" for session in lines))
    return str(path)


def test_the_json_has_every_rule_pooled_and_by_source(tmp_path, capsys):
    out = tmp_path / "out.json"
    assert main(["eval", "loops", data(tmp_path / "a.jsonl"), "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    assert set(document) == {"rules", "by_source"}
    assert set(document["rules"]) == set(RULE_NAMES)
    assert set(document["by_source"]) == {"lab", "synthetic loop: syn_exact"}
    for figures in (*document["rules"].values(), *document["by_source"]["lab"].values()):
        assert set(figures) >= KEYS
    roo = document["rules"]["roo_cline"]
    assert (roo["healthy"], roo["loops"], roo["loops_stopped"], roo["false_stops"]) == (1, 2, 2, 0)
    assert (roo["real"]["loops"], roo["synthetic"]["loops"], roo["wasted_calls_median"]) == (1, 1, 3)
    assert 0 < roo["real"]["spend_saved_usd"] < 2.1
    assert document["rules"]["penstock"]["measured"]["microseconds_per_message"] > 0
    printed = capsys.readouterr().out
    assert "real pooled: loop sessions (1) found" in printed
    assert "list-price estimate" in printed


def test_only_the_selected_rules_are_reported(tmp_path, capsys):
    assert main(["eval", "loops", data(tmp_path / "a.jsonl"), "--rules", "crush,cap_25"]) == 0
    printed = capsys.readouterr().out
    assert "crush" in printed
    assert "penstock" not in printed


def test_wrong_usage_and_invalid_data_are_reported(tmp_path, capsys):
    assert main(["eval", "loops", data(tmp_path / "a.jsonl"), "--rules", "nonsense"]) == 2
    assert "unknown rule 'nonsense'; known: penstock, openhands" in capsys.readouterr().err
    (tmp_path / "bad.jsonl").write_text("{}\n")
    assert main(["eval", "loops", str(tmp_path / "bad.jsonl")]) == 1
    assert "bad.jsonl:1: not a session" in capsys.readouterr().err
    (tmp_path / "none.jsonl").write_text("")
    assert main(["eval", "loops", str(tmp_path / "none.jsonl")]) == 1
    assert "no session in the data" in capsys.readouterr().err
    assert main(["eval", "loops", data(tmp_path / "a.jsonl"), "--long-sessions", "2"]) == 1
    assert "too few healthy sessions" in capsys.readouterr().err


def test_a_report_without_loops_has_no_shares():
    result = benchmark.run(
        [recording(circle(3))], rule_factories(["crush"], loop_limits(None), GuardCost()), TokenPrices(), GuardCost()
    )
    figures = result.document()["rules"]["crush"]
    assert figures["saved_share_usd"] is None
    assert figures["wasted_calls_median"] is None
    assert figures["synthetic"] is None
