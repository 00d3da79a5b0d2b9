"""`penstock eval energy`: errors by hand, EcoLogits' method, and bad input."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.main import main
from gateway.offline.evaluation.energy import ecologits, published_figures
from gateway.offline.evaluation.energy.benchmark import SUBSETS, estimate_joules, profile_of, run
from gateway.offline.evaluation.energy.published_figures import PublishedFigure, quantile

HEAD = [
    "id",
    "kind",
    "boundary",
    "system",
    "hardware",
    "n_accel",
    "precision",
    "params_total_b",
    "params_active_b",
    "task",
    "input_tokens",
    "output_tokens",
    "concurrency",
    "median_itl_ms",
    "wh_per_request",
    "score",
    "eco_log2_ratio",
]
ROW = {
    "id": "a", "kind": "measured", "boundary": "gpu", "system": "m", "hardware": "H100", "n_accel": "1", "precision": "bfloat16",
    "params_total_b": "8", "params_active_b": "8", "task": "chat", "input_tokens": "150", "output_tokens": "500",
    "concurrency": "64", "median_itl_ms": "20", "wh_per_request": "0.02", "score": "yes", "eco_log2_ratio": "-1.5",
}  # fmt: skip
V3 = {
    "task": "lm-arena-chat", "model_id": "x/y", "nickname": "Y", "architecture": "MoE", "weight_precision": "fp8",
    "total_params_billions": "30", "activated_params_billions": "3", "gpu_model": "B200", "num_gpus": "1",
    "max_num_seqs": "64", "avg_batch_size": "63.9", "avg_output_len": "900", "energy_per_token_joules": "0.2",
    "median_itl_ms": "19",
}  # fmt: skip
KEYS = {"n", "median_abs_log2", "p90_abs_log2", "bias_log2", "coverage", "width_log2", "ecologits_median_abs_log2"}


def table(path: Path, *rows: dict[str, str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_the_command_prints_and_writes_every_subset(tmp_path, capsys):
    truth = table(tmp_path / "truth.csv", ROW, {**ROW, "id": "b", "kind": "derived", "concurrency": ""})
    out = tmp_path / "out.json"
    assert main(["eval", "energy", str(truth), str(table(tmp_path / "v3.csv", V3)), "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    subsets = json.loads(out.read_text())["subsets"]
    assert {"all", "measured_known", "measured_unknown", "derived", "mlenergy_v3_known"} <= set(subsets) <= set(SUBSETS)
    assert all(set(errors) == KEYS for errors in subsets.values())
    assert all(name in printed for name in subsets)
    assert subsets["measured_known"]["ecologits_median_abs_log2"] == 1.5


def test_the_measures_by_hand():
    point = PublishedFigure(**{**BASE, "joules": 100.0})
    low, mid, high = estimate_joules(point, "known")
    errors = run([point])["measured_known"]
    assert errors.median_abs_log2 == pytest.approx(abs(math.log2(mid / 100)))
    assert errors.bias_log2 == pytest.approx(math.log2(mid / 100))
    assert errors.width_log2 == pytest.approx(math.log2(high / low))
    assert errors.coverage == float(low <= 100 <= high)
    assert quantile([1.0, 2.0, 3.0, 4.0, 5.0], 0.9) == pytest.approx(4.6)


BASE: dict[str, Any] = {
    "name": "x", "table": "published", "kind": "measured", "model": "m", "media": "text", "task": "chat", "active_b": 8.0,
    "total_b": 8.0, "weight_bits": 16.0, "hardware": "h100", "gpus": 1, "input_tokens": 150, "output_tokens": 500.0,
    "concurrent_sequences": 64.0, "token_latency_ms_median": 20.0, "boundary": "gpu",
}  # fmt: skip


def test_the_estimate_uses_no_more_than_the_subset_allows():
    point = PublishedFigure(**{**BASE, "joules": 100.0})
    known, unknown, latency = (profile_of(point, knowledge) for knowledge in ("known", "unknown", "latency"))
    assert (known.concurrency, known.gpus) == (64.0, 1)
    assert (unknown.concurrency, unknown.gpus) == (None, None)
    assert latency.gpus is None and latency.concurrency not in (None, 64.0)


@pytest.mark.parametrize(
    "active, total, tokens, wh",
    [(3, 30, 929.2, 0.0392471), (37, 671, 1000, 3.31575 / 1.0)],
    ids=["one card", "thirty-two cards"],
)
def test_ecologits_method_gives_ecologits_figures(active, total, tokens, wh):
    """Figures of the package itself (0.11.3) for the GPU and the IT boundary."""
    boundary = "gpu" if total == 30 else "it"
    assert ecologits.energy_joules(active, total, tokens, boundary) / 3600 == pytest.approx(wh, rel=1e-4)


def test_rows_not_to_be_scored_are_left_out(tmp_path):
    truth = table(tmp_path / "t.csv", ROW, {**ROW, "score": "no"}, {**ROW, "params_active_b": ""})
    assert len(published_figures.load_figures([truth])) == 1


def test_a_range_counts_as_its_geometric_mean(tmp_path):
    truth = table(tmp_path / "t.csv", {**ROW, "params_total_b": "100-400", "params_active_b": "25-100"})
    (point,) = published_figures.load_figures([truth])
    assert (point.total_b, point.active_b) == (200.0, 50.0)


@pytest.mark.parametrize(
    "text, message",
    [
        ("a,b\n1,2\n", "neither a table"),
        ("", "neither a table"),
        (",".join(ROW) + "\n" + ",".join({**ROW, "output_tokens": "many"}.values()) + "\n", "line 2"),
        (",".join(ROW) + "\n" + ",".join({**ROW, "score": "no"}.values()) + "\n", "no point"),
    ],
    ids=["another table", "empty", "invalid number", "nothing to score"],
)
def test_an_invalid_table_is_reported(tmp_path, capsys, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    assert main(["eval", "energy", str(path)]) == 1
    assert message in capsys.readouterr().err


def test_a_missing_file_is_reported(capsys):
    assert main(["eval", "energy", "nowhere.csv"]) == 1
    assert "nowhere.csv" in capsys.readouterr().err
