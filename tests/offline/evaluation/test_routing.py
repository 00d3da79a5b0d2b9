"""`penstock eval routing`, `floor` and `economics`: exact figures, and bad input."""

import gzip
import json

import numpy as np
import pytest

from gateway.cli.main import main
from gateway.offline.evaluation.routing.measures import TierOutcomes, cost_at_quality, curve, measures
from gateway.offline.evaluation.routing.session_costs import PricedCall, hindsight_tiers, total_nusd
from tests.routing.test_expected_cost import FRONTIER, SMALL

KEYS = {"apgr", "cpt50", "cpt80", "cost_at_95", "auc_need", "ece", "budget_error", "n"}


def outcomes(small, large) -> TierOutcomes:
    count = len(small)
    return TierOutcomes(
        np.array(small, float), np.array(large, float), np.full(count, 1 / count), np.full(count, 0.1), np.ones(count)
    )


def test_the_measures_by_hand():
    # Two of four need the frontier; the order is perfect.
    four = outcomes([0, 0, 1, 1], [1, 1, 1, 1])
    figures = measures(np.array([4.0, 3, 2, 1]), np.array([1.0, 1, 0, 0]), four)
    assert figures.apgr == pytest.approx(0.75)
    assert figures.cpt50 == pytest.approx(0.25)
    assert figures.cpt80 == pytest.approx(0.4)
    assert figures.auc_need == 1.0
    assert figures.ece == 0.0
    # 0.95 of the quality is at a share of 0.45: 0.45 + 0.55 * 0.1.
    assert figures.cost_at_95 == pytest.approx(0.505)


def test_ties_are_one_straight_segment():
    four = outcomes([0, 1, 0, 1], [1, 1, 1, 1])
    line = curve(np.zeros(4), four)
    assert len(line.share) == 2
    assert measures(np.zeros(4), np.zeros(4), four).apgr == pytest.approx(0.5)


def test_where_the_small_model_keeps_enough_no_frontier_call_is_needed():
    equal = outcomes([1, 1], [1, 1])
    assert cost_at_quality(curve(np.array([1.0, 2]), equal), 0.95) == pytest.approx(0.1)


def write(path, rows) -> str:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(path)


def synthetic_rows(count: int, source: str = "made-up", **more) -> list[dict]:
    randomness = np.random.default_rng(4)
    return [
        {"id": f"{source}{n}", "source": source, "prompt": f"Question {n}: what is {n} + {n}?" + " why" * (n % 7),
         "small_score": float(randomness.random() < 0.6), "large_score": float(randomness.random() < 0.9),
         "family": "maths", **more}
        for n in range(count)
    ]  # fmt: skip


def test_the_json_has_pooled_macro_and_source_figures(tmp_path, capsys):
    data = write(tmp_path / "a.jsonl.gz", synthetic_rows(300))
    more = write(tmp_path / "b.jsonl.gz", synthetic_rows(40, "other"))
    out, png = tmp_path / "out.json", tmp_path / "curves.png"
    assert main(["eval", "routing", data, more, "--json", str(out), "--plot", str(png)]) == 0
    document = json.loads(out.read_text())
    assert set(document["by_source"]) == {"made-up", "other"}
    for figures in (document["pooled"], document["macro"], *document["by_source"].values()):
        assert set(figures) >= KEYS
    assert document["macro"]["n"] == 300
    assert document["pooled"]["budget_error"] < 0.03
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "Pooled" in capsys.readouterr().out


@pytest.mark.parametrize("count", [0, 5, 200])
def test_any_number_of_own_labels(tmp_path, count):
    data = write(tmp_path / "a.jsonl.gz", synthetic_rows(120))
    out = tmp_path / "out.json"
    assert main(["eval", "routing", data, "--own-labels", str(count), "--json", str(out)]) == 0
    assert json.loads(out.read_text())["by_source"]["made-up"]["n"] == 120


@pytest.mark.parametrize(
    "rows",
    [
        synthetic_rows(1),
        synthetic_rows(3),
        [{**row, "small_score": 1.0, "large_score": 1.0} for row in synthetic_rows(20)],
    ],
    ids=["one row", "three rows", "no gap"],
)
def test_too_little_data_gives_no_figures_but_no_error(tmp_path, rows):
    data, out = write(tmp_path / "a.jsonl.gz", rows), tmp_path / "out.json"
    assert main(["eval", "routing", data, "--own-labels", "10", "--json", str(out)]) == 0
    assert "NaN" not in out.read_text()


@pytest.mark.parametrize(
    "text, message",
    [
        ("{}", "a.jsonl:1"), ("nonsense", "a.jsonl:1"), ("", "no labelled prompt"),
        (json.dumps({**synthetic_rows(1)[0], "small_score": 7}), "[0, 1]"),
    ],
)  # fmt: skip
def test_invalid_data_is_reported_with_its_line(tmp_path, capsys, text, message):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    assert main(["eval", "routing", str(path)]) == 1
    assert message in capsys.readouterr().err


def test_null_and_missing_fields_are_valid(tmp_path):
    nulls = dict.fromkeys(("family", "task", "group", "split", "context", "costs_usd"))
    rows = [{**row, **nulls, "scores": {"a": None, "b": 1}, "more": [1]} for row in synthetic_rows(120)]
    bare = [
        {name: row[name] for name in ("id", "source", "prompt", "small_score", "large_score")}
        for row in synthetic_rows(30, "bare")
    ]
    data, out = write(tmp_path / "a.jsonl.gz", [*rows, *bare]), tmp_path / "out.json"
    assert main(["eval", "routing", data, "--own-labels", "50", "--json", str(out)]) == 0
    assert main(["learn", "train", data, "--out", str(tmp_path / "w.json.gz")]) == 0


def test_logged_costs_are_used(tmp_path):
    rows = [
        {**row, "small_model": "s", "large_model": "l", "costs_usd": {"s": 0.5, "l": 1.0}}
        for row in synthetic_rows(150)
    ]
    out = tmp_path / "out.json"
    assert main(["eval", "routing", write(tmp_path / "a.jsonl.gz", rows), "--json", str(out)]) == 0
    assert json.loads(out.read_text())["pooled"]["cost_at_95"] >= 0.5


def test_the_floor_is_evaluated(tmp_path, capsys):
    data = write(tmp_path / "a.jsonl.gz", synthetic_rows(400))
    out = tmp_path / "out.json"
    assert main(["eval", "floor", data, "--labels", "250", "--splits", "20", "--keep", "0.8", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["made-up"]["broken_share"] <= 0.2
    assert main(["eval", "floor", data, "--labels", "500"]) == 1
    assert "500" in capsys.readouterr().err


def test_hindsight_never_costs_more_than_any_policy():
    steps = [PricedCall(input_tokens=1000 * (n + 1), output_tokens=100, wants_frontier=n % 3 == 0) for n in range(9)]
    sheets = (SMALL, FRONTIER)
    best = total_nusd(sheets, steps, hindsight_tiers(sheets, steps))
    per_request = [1 if step.wants_frontier else 0 for step in steps]
    assert best <= total_nusd(sheets, steps, per_request) <= total_nusd(sheets, steps, [1] * 9)


def test_economics_of_a_recording(tmp_path, capsys):
    messages = [{"role": "user", "content": "hi"}]
    for n in range(5):
        messages += [{"role": "assistant", "content": f"step {n} " * 50}, {"role": "user", "content": f"continue {n}"}]
    path = tmp_path / "runs.jsonl"
    path.write_text(json.dumps({"id": "a", "source": "s", "messages": messages}) + "\n")
    assert main(["eval", "economics", str(path)]) == 0
    assert "cache-aware" in capsys.readouterr().out
    assert main(["eval", "economics", str(path), "--small", "no-such-model"]) == 1
    assert "no-such-model" in capsys.readouterr().err


def test_training_is_reproducible_and_rejects_invalid_options(tmp_path, capsys):
    data, out = write(tmp_path / "a.train.jsonl.gz", synthetic_rows(150, split="train")), tmp_path / "weights.json.gz"
    assert main(["learn", "train", data, "--out", str(out)]) == 0
    first = out.read_bytes()
    assert main(["learn", "train", data, "--out", str(out)]) == 0
    assert out.read_bytes() == first
    assert main(["eval", "routing", data, "--weights", str(out)]) == 0
    assert main(["learn", "train", data, "--out", str(out), "--exclude-sources", "made-up"]) == 1
    assert main(["learn", "train", data, "--out", str(out), "--exclude-sources", "other"]) == 1
    (tmp_path / "bad.json.gz").write_bytes(b"nonsense")
    assert main(["eval", "routing", data, "--weights", str(tmp_path / "bad.json.gz")]) == 1
    assert "bad.json.gz" in capsys.readouterr().err


def test_rows_marked_train_are_labels_and_not_scored(tmp_path):
    tested = write(tmp_path / "a.test.jsonl.gz", synthetic_rows(120, split="test"))
    taught = write(
        tmp_path / "a.train.jsonl.gz", [{**row, "id": f"t{row['id']}"} for row in synthetic_rows(200, split="train")]
    )
    out = tmp_path / "out.json"
    assert main(["eval", "routing", tested, taught, "--own-labels", "150", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["pooled"]["n"] == 120
    assert main(["eval", "routing", taught, "--json", str(out)]) == 0
    assert json.loads(out.read_text())["pooled"]["n"] == 200
