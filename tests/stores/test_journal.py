"""The journal on a real disk: kills, torn lines, full disks, generations."""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from gateway.stores.journal import Journal
from gateway.values.errors import Overloaded
from tests.stores.records import entry, hold


def started_journal(folder: Path, **options: int) -> Journal:
    journal = Journal(folder, **options)
    journal.start()
    return journal


def recovered_ids(folder: Path) -> list[str]:
    return [recovered.request_id for recovered in Journal(folder).recover()]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


@contextlib.contextmanager
def disk_full_after(file_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond that many bytes; a write is cut there, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_entries_and_open_holds_are_recovered_after_a_kill(tmp_path: Path):
    journal = started_journal(tmp_path)
    for name in ("a", "b", "c"):
        journal.append_hold(hold(name))
    journal.append_entry(entry("a"))
    recovered = {found.request_id: found for found in Journal(tmp_path).recover()}
    assert recovered["a"].outcome == "completed"
    assert [recovered[name].outcome for name in ("b", "c")] == ["expired", "expired"]
    assert recovered["b"].charge_nusd == 500, "an open hold is charged in full, never refunded silently"


def test_a_torn_last_line_is_dropped_and_the_rest_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    journal = started_journal(tmp_path)
    journal.append_hold(hold("a"))
    journal.append_entry(entry("a"))
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes() + b'{"fact":{"id":"b.1","at_')
    assert recovered_ids(tmp_path) == ["a"]
    assert "journal_line_unreadable" in caplog.text


@pytest.mark.parametrize("noise", [b"\x00" * 100, b"{}\n", b"[]\n7\nnull\n", b"\xff\xfe\n"])
def test_garbage_in_the_journal_does_not_prevent_a_start(tmp_path: Path, noise: bytes):
    journal = started_journal(tmp_path)
    journal.append_entry(entry("a"))
    (path,) = files(tmp_path)
    path.write_bytes(noise + b"\n" + path.read_bytes())
    assert recovered_ids(tmp_path) == ["a"]


def test_a_new_generation_begins_with_the_open_holds(tmp_path: Path):
    journal = started_journal(tmp_path, generation_bytes_max=1000)
    journal.append_hold(hold("open"))
    for number in range(10):
        journal.append_hold(hold(f"n{number}"))
        journal.append_entry(entry(f"n{number}"))
    journal.remove_before(journal.generation)
    assert len(files(tmp_path)) == 1
    assert "open" in set(recovered_ids(tmp_path))


def test_older_generations_are_kept_until_they_are_removed(tmp_path: Path):
    started_journal(tmp_path).append_entry(entry("a"))
    journal = started_journal(tmp_path)
    assert journal.generation == 2
    assert recovered_ids(tmp_path) == ["a"]
    journal.remove_before(journal.generation)
    assert recovered_ids(tmp_path) == []


def test_files_of_other_names_are_neither_read_nor_removed(tmp_path: Path):
    (tmp_path / "notes.jsonl").write_text("mine")
    journal = started_journal(tmp_path)
    journal.remove_before(journal.generation + 1)
    assert [path.name for path in files(tmp_path)] == ["notes.jsonl"]


def test_a_line_after_a_torn_line_is_kept(tmp_path: Path):
    journal = started_journal(tmp_path)
    with disk_full_after(20), pytest.raises(Overloaded, match="not writable"):
        journal.append_hold(hold("a"))
    assert files(tmp_path)[0].stat().st_size == 20
    journal.append_hold(hold("b"))
    assert recovered_ids(tmp_path) == ["b"]


def test_a_hold_stays_open_if_its_entry_cannot_be_written(tmp_path: Path):
    journal = started_journal(tmp_path, generation_bytes_max=1000)
    journal.append_hold(hold("a"))
    with disk_full_after(files(tmp_path)[0].stat().st_size), pytest.raises(OSError, match=r".+"):
        journal.append_entry(entry("a"))
    journal.append_entry(entry("b"))
    assert journal.generation == 2, "the file was full"
    journal.remove_before(2)
    assert [found.outcome for found in Journal(tmp_path).recover()] == ["expired"]


def test_the_current_file_stays_in_use_if_the_next_one_cannot_be_written(tmp_path: Path):
    journal = started_journal(tmp_path)
    journal.append_hold(hold("a"))
    with disk_full_after(10), pytest.raises(OSError, match="space"):
        journal.start()
    assert journal.generation == 1 and len(files(tmp_path)) == 1
    journal.append_entry(entry("a"))
    assert [found.outcome for found in Journal(tmp_path).recover()] == ["completed"]


def test_a_folder_is_locked_by_one_process_until_it_closes(tmp_path: Path):
    first, second = Journal(tmp_path / "journal"), Journal(tmp_path / "journal")
    first.acquire_lock()
    with pytest.raises(OSError, match=f"data folder {tmp_path} is in use by another gateway"):
        second.acquire_lock()
    first.close()
    second.acquire_lock()
    second.close()


def test_a_probe_reports_whether_a_line_can_be_written_and_leaves_no_record(tmp_path: Path):
    journal = started_journal(tmp_path)
    assert journal.probe_writable()
    with disk_full_after(1):
        assert not journal.probe_writable()
    journal.append_entry(entry("a"))
    assert recovered_ids(tmp_path) == ["a"]
    journal.close()
    assert not journal.probe_writable()


def test_a_call_that_was_open_at_a_kill_keeps_the_id_of_its_response(tmp_path: Path):
    journal = started_journal(tmp_path)
    journal.append_hold(hold("a"))
    journal.append_hold(structs.replace(hold("a"), object_ids="resp_1"))
    (recovered,) = Journal(tmp_path).recover()
    assert (recovered.outcome, recovered.usage_basis, recovered.object_ids) == ("expired", "estimated", "resp_1")
