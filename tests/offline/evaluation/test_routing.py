"""`penstock eval routing`, `floor` and `economics`: exact figures on made-up data, and bad input."""

import gzip
import json

import numpy as np
import pytest

from gateway.cli.main import main
from gateway.offline.evaluation.routing.measures import TierOutcomes, cost_at_quality, curve, measures
from gateway.offline.evaluation.routing.session_costs import PricedCall, _hindsight_tiers, _total_nusd
from tests.routing.test_expected_cost import FRONTIER, SMALL

KEYS = {"apgr", "cpt50", "cpt80", "cost_at_95", "auc_need", "ece", "budget_error", "n"}


def outcomes(small, large) -> TierOutcomes:
    count = len(small)
    return TierOutcomes(
        np.array(small, float), np.array(large, float), np.full(count, 1 / count), np.full(count, 0.1), np.ones(count)
    )


def test_the_measures_by_hand():
    # Two of four need the frontier; the order is perfect.
    known = outcomes([0, 0, 1, 1], [1, 1, 1, 1])
    found = measures(np.array([4.0, 3, 2, 1]), np.array([1.0, 1, 0, 0]), known)
    assert found.apgr == pytest.approx(0.75)
    assert found.cpt50 == pytest.approx(0.25)
    assert found.cpt80 == pytest.approx(0.4)
    assert found.auc_need == 1.0
    assert found.ece == 0.0
    # 0.95 of the quality lies at a share of 0.45: 0.45 + 0.55 * 0.1.
    assert found.cost_at_95 == pytest.approx(0.505)


def test_ties_are_crossed_in_one_straight_line():
    known = outcomes([0, 1, 0, 1], [1, 1, 1, 1])
    found = curve(np.zeros(4), known)
    assert len(found.share) == 2
    assert measures(np.zeros(4), np.zeros(4), known).apgr == pytest.approx(0.5)


def test_where_the_small_model_keeps_enough_nothing_has_to_be_spent():
    known = outcomes([1, 1], [1, 1])
    assert cost_at_quality(curve(np.array([1.0, 2]), known), 0.95) == pytest.approx(0.1)


def write(path, rows) -> str:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(path)


def made_up(count: int, source: str = "made-up", **more) -> list[dict]:
    randomness = np.random.default_rng(4)
    return [
        {"id": f"{source}{n}", "source": source, "prompt": f"Question {n}: what is {n} + {n}?" + " why" * (n % 7), "small_score": float(randomness.random() < 0.6),
         "large_score": float(randomness.random() < 0.9), "family": "maths", **more}
        for n in range(count)
    ]  # fmt: skip


def test_the_figures_are_written_as_they_are_looked_for(tmp_path, capsys):
    data = write(tmp_path / "a.jsonl.gz", made_up(300))
    more = write(tmp_path / "b.jsonl.gz", made_up(40, "other"))
    out, png = tmp_path / "out.json", tmp_path / "curves.png"
    assert main(["eval", "routing", data, more, "--json", str(out), "--plot", str(png)]) == 0
    found = json.loads(out.read_text())
    assert set(found["by_source"]) == {"made-up", "other"}
    for one in (found["pooled"], found["macro"], *found["by_source"].values()):
        assert set(one) >= KEYS
    assert found["macro"]["n"] == 300
    assert found["pooled"]["budget_error"] < 0.03
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "Pooled" in capsys.readouterr().out


@pytest.mark.parametrize("count", [0, 5, 200])
def test_own_labels_of_any_number(tmp_path, count):
    data = write(tmp_path / "a.jsonl.gz", made_up(120))
    out = tmp_path / "out.json"
    assert main(["eval", "routing", data, "--own-labels", str(count), "--json", str(out)]) == 0
    assert json.loads(out.read_text())["by_source"]["made-up"]["n"] == 120


@pytest.mark.parametrize(
    "rows",
    [made_up(1), made_up(3), [{**row, "small_score": 1.0, "large_score": 1.0} for row in made_up(20)]],
    ids=["one row", "three rows", "no gap"],
)
def test_data_that_can_say_little(tmp_path, rows):
    data, out = write(tmp_path / "a.jsonl.gz", rows), tmp_path / "out.json"
    assert main(["eval", "routing", data, "--own-labels", "10", "--json", str(out)]) == 0
    assert "NaN" not in out.read_text()


@pytest.mark.parametrize(
    "text, told",
    [("{}", "a.jsonl:1"), ("nonsense", "a.jsonl:1"), ("", "no labelled prompt"), (json.dumps({**made_up(1)[0], "small_score": 7}), "[0, 1]")],
)  # fmt: skip
def test_bad_data_is_refused_with_its_place(tmp_path, capsys, text, told):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    assert main(["eval", "routing", str(path)]) == 1
    assert told in capsys.readouterr().err


def test_fields_that_are_null_or_missing_are_no_mistake(tmp_path):
    nulls = dict.fromkeys(("family", "task", "group", "split", "context", "costs_usd"))
    rows = [{**row, **nulls, "scores": {"a": None, "b": 1}, "more": [1]} for row in made_up(120)]
    bare = [
        {name: row[name] for name in ("id", "source", "prompt", "small_score", "large_score")}
        for row in made_up(30, "bare")
    ]
    data, out = write(tmp_path / "a.jsonl.gz", [*rows, *bare]), tmp_path / "out.json"
    assert main(["eval", "routing", data, "--own-labels", "50", "--json", str(out)]) == 0
    assert main(["learn", "train", data, "--out", str(tmp_path / "w.json.gz")]) == 0


def test_logged_costs_are_used(tmp_path):
    rows = [{**row, "small_model": "s", "large_model": "l", "costs_usd": {"s": 0.5, "l": 1.0}} for row in made_up(150)]
    out = tmp_path / "out.json"
    assert main(["eval", "routing", write(tmp_path / "a.jsonl.gz", rows), "--json", str(out)]) == 0
    assert json.loads(out.read_text())["pooled"]["cost_at_95"] >= 0.5


def test_the_floor_is_tried(tmp_path, capsys):
    data = write(tmp_path / "a.jsonl.gz", made_up(400))
    out = tmp_path / "out.json"
    assert main(["eval", "floor", data, "--labels", "250", "--splits", "20", "--keep", "0.8", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["made-up"]["broken_share"] <= 0.2
    assert main(["eval", "floor", data, "--labels", "500"]) == 1
    assert "500" in capsys.readouterr().err


def test_hindsight_is_never_dearer_than_any_way():
    steps = [PricedCall(input_tokens=1000 * (n + 1), output_tokens=100, wants_frontier=n % 3 == 0) for n in range(9)]
    sheets = (SMALL, FRONTIER)
    best = _total_nusd(sheets, steps, _hindsight_tiers(sheets, steps))
    per_request = [1 if step.wants_frontier else 0 for step in steps]
    assert best <= _total_nusd(sheets, steps, per_request) <= _total_nusd(sheets, steps, [1] * 9)


def test_economics_on_a_recording(tmp_path, capsys):
    messages = [{"role": "user", "content": "hi"}]
    for n in range(5):
        messages += [{"role": "assistant", "content": f"step {n} " * 50}, {"role": "user", "content": f"go on {n}"}]
    path = tmp_path / "runs.jsonl"
    path.write_text(json.dumps({"id": "a", "source": "s", "messages": messages}) + "\n")
    assert main(["eval", "economics", str(path)]) == 0
    assert "cache-aware" in capsys.readouterr().out
    assert main(["eval", "economics", str(path), "--small", "no-such-model"]) == 1
    assert "no-such-model" in capsys.readouterr().err


def test_training_says_what_it_did_and_refuses_what_it_cannot(tmp_path, capsys):
    data, out = write(tmp_path / "a.train.jsonl.gz", made_up(150, split="train")), tmp_path / "weights.json.gz"
    assert main(["learn", "train", data, "--out", str(out)]) == 0
    first = out.read_bytes()
    assert main(["learn", "train", data, "--out", str(out)]) == 0
    assert out.read_bytes() == first
    assert main(["eval", "routing", data, "--weights", str(out)]) == 0
    assert main(["learn", "train", data, "--out", str(out), "--leave-out", "made-up"]) == 1
    assert main(["learn", "train", data, "--out", str(out), "--leave-out", "other"]) == 1
    (tmp_path / "bad.json.gz").write_bytes(b"nonsense")
    assert main(["eval", "routing", data, "--weights", str(tmp_path / "bad.json.gz")]) == 1
    assert "bad.json.gz" in capsys.readouterr().err


def test_rows_marked_train_teach_and_are_not_scored(tmp_path):
    tested = write(tmp_path / "a.test.jsonl.gz", made_up(120, split="test"))
    taught = write(
        tmp_path / "a.train.jsonl.gz", [{**row, "id": f"t{row['id']}"} for row in made_up(200, split="train")]
    )
    out = tmp_path / "out.json"
    assert main(["eval", "routing", tested, taught, "--own-labels", "150", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["pooled"]["n"] == 120
    assert main(["eval", "routing", taught, "--json", str(out)]) == 0
    assert json.loads(out.read_text())["pooled"]["n"] == 200
