"""Quality labels and fitted floors in the data folder."""

from pathlib import Path
from typing import Any

import pytest

from gateway.stores.labels_sqlite import LEARNED_FILE, SqliteLabels, StoredLabel, read_learned, write_learned
from gateway.values.quality import FittedFloor, LearnedFloors, ScorerCorrection

GROUP = ("default", "code", "sim-small", "sim-frontier")


def label(name: str, at_ms: int = 1, **change: Any) -> StoredLabel:
    fields: dict[str, Any] = {
        "org": "default", "task_type": "code", "small_model": "sim-small", "large_model": "sim-frontier", "score": 0.25,
        "moved": -0.5, "small": 1.0, "large": None, "source": "judge", "scorer": "weights",
    }  # fmt: skip
    return StoredLabel(id=name, at_ms=at_ms, **(fields | change))


def store_of(folder: Path, labels_max: int = 1_000) -> SqliteLabels:
    store = SqliteLabels(folder / "data", labels_max)
    store.create()
    return store


def names(store: SqliteLabels) -> list[str]:
    return [each.id for each in store.valid_labels()]


def test_a_label_round_trips(tmp_path: Path):
    store = store_of(tmp_path)
    original = label("a", numbers=b"\x00\xff", words=b"\x01\x02\x03\x04", known=0.5, opens=0, content='{"task": "é"}')
    store.add([original])
    assert list(store.valid_labels()) == [original]
    assert next(store.valid_labels()).group == GROUP


def test_a_known_id_is_ignored(tmp_path: Path):
    store = store_of(tmp_path)
    store.add([label("a", small=1.0)])
    store.add([label("a", small=0.0), label("b")])
    assert [(each.id, each.small) for each in store.valid_labels()] == [("a", 1.0), ("b", 1.0)]


def test_the_oldest_labels_are_dropped_beyond_the_maximum(tmp_path: Path):
    store = store_of(tmp_path, labels_max=3)
    store.add([label(f"n{number}", number) for number in range(5)])
    assert names(store) == ["n2", "n3", "n4"]
    store.add([label("newest", 9)])
    assert names(store) == ["n3", "n4", "newest"]


def test_a_reset_invalidates_the_earlier_labels_of_its_group_only(tmp_path: Path):
    store = store_of(tmp_path)
    store.add([label("before", 10), label("after", 11), label("other", 5, task_type="summary")])
    store.reset(GROUP, 10)
    assert names(store) == ["other", "after"]
    assert store.resets() == {GROUP: 10}
    store.reset(GROUP, 20)
    assert names(store) == ["other"] and store.resets() == {GROUP: 20}


def test_content_stays_out_of_representations(tmp_path: Path):
    assert repr(label("a", content="secret prompt")) == "StoredLabel(a, judge)"


def test_fitted_floors_round_trip(tmp_path: Path):
    floor = FittedFloor(
        ceiling=0.4, keep=0.9, confidence=0.95, labels=500, share=0.5, kept=0.92, edges=(0.1, 0.2), shares=(0.3, 0.3, 0.4),
        watched=200, head=ScorerCorrection(offset=0.1, slope=0.9, numbers=(1.0, 2.0), words={"prove": 0.5}),
    )  # fmt: skip
    unsupported = FittedFloor(ceiling=None, keep=0.9, confidence=0.95, labels=3, share=0.0, kept=0.0)
    learned = LearnedFloors(
        scorer="weights", fitted_at=123.5, floors={GROUP: floor, ("acme", "other", "a", "b"): unsupported}
    )
    write_learned(tmp_path, learned)
    assert read_learned(tmp_path) == learned
    assert [path.name for path in tmp_path.iterdir()] == [LEARNED_FILE], "replaced as a whole, nothing left beside it"


def test_there_are_no_fitted_floors_without_a_file(tmp_path: Path):
    assert read_learned(tmp_path) is None


@pytest.mark.parametrize("text", ["{}", "{ nonsense", "[]", '{"scorer": "s", "at": 1, "fitted": [["a"]]}'])
def test_an_invalid_file_of_fitted_floors_is_refused_by_name(tmp_path: Path, text: str):
    (tmp_path / LEARNED_FILE).write_text(text)
    with pytest.raises(ValueError, match=r"learned\.json: not a file of `penstock learn fit`"):
        read_learned(tmp_path)
