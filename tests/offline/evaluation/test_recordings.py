"""Reading recordings: valid and invalid lines, and what a rule sees of a session."""

import gzip
import json

import orjson
import pytest

from gateway.offline.evaluation.decision_points import TurnCall, decision_points, turn_between
from gateway.offline.evaluation.recordings import load_recordings
from tests.offline.evaluation.trajectories import OPENING, circle, line, recording, step


def write_lines(path, *lines):
    content = "".join(json.dumps(text) + "\n" if isinstance(text, dict) else text for text in lines)
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


def test_files_and_folders_are_read_gzipped_or_not(tmp_path):
    write_lines(tmp_path / "b.jsonl.gz", line(circle(1), id="two"), "\n", line(circle(1), id="three"))
    write_lines(tmp_path / "a.jsonl", line(circle(1), id="one"))
    write_lines(tmp_path / "notes.txt", "not data")
    assert [session.id for session in load_recordings([tmp_path])] == ["one", "two", "three"]
    assert [session.id for session in load_recordings([tmp_path / "a.jsonl"])] == ["one"]


def test_only_id_and_messages_are_required(tmp_path):
    (session,) = load_recordings([write_lines(tmp_path / "lab.jsonl", {"id": "x", "messages": OPENING, "more": 1})])
    assert (session.source, session.label, session.onset, session.cost_usd) == ("lab", "unknown", None, None)


@pytest.mark.parametrize("label", [None, "unknown_cap", "fine"])
def test_any_other_label_is_unknown(tmp_path, label):
    (session,) = load_recordings([write_lines(tmp_path / "lab.jsonl", line(OPENING, label=label))])
    assert session.label == "unknown"


@pytest.mark.parametrize(
    "more",
    [{"id": "syn/1"}, {"source": "synthetic continuation of x"}, {"label_provenance": "SYNTHETIC exact, seed 1"}],
)
def test_synthetic_sessions_are_recognized_and_grouped_by_their_kind(tmp_path, more):
    (session,) = load_recordings(
        [write_lines(tmp_path / "lab.jsonl", line(OPENING, label="loop", loop_class="syn_exact", **more))]
    )
    assert session.synthetic
    assert session.source == "synthetic loop: syn_exact"


@pytest.mark.parametrize(
    ("invalid", "reason"),
    [
        ("{nonsense\n", "malformed"),
        ('{"id": "x"}\n', "messages"),
        ('{"id": "x", "messages": []}\n', "empty"),
        ('{"id": 5, "messages": []}\n', "id"),
        ('{"id": "x", "messages": ["hello"]}\n', "messages"),
        ('{"id": "x", "messages": [{"content": "hi"}]}\n', "messages\\[0\\] has no 'role'"),
        ('{"id": "x", "messages": [{"role": "user", "content": 7}]}\n', "'content'"),
        ('{"id": "x", "messages": [{"role": "user", "tool_calls": {}}]}\n', "'tool_calls'"),
        ('{"id": "x", "messages": [{"role": "user"}], "loop_onset_call": "first"}\n', "loop_onset_call"),
    ],
)
def test_an_invalid_line_is_reported_with_file_and_number(tmp_path, invalid, reason):
    path = write_lines(tmp_path / "bad.jsonl", line(circle(1)), invalid)
    with pytest.raises(ValueError, match=rf"bad\.jsonl:2: not a session: .*{reason}"):
        list(load_recordings([path]))


def test_unreadable_files_are_reported(tmp_path):
    (tmp_path / "broken.jsonl.gz").write_bytes(gzip.compress(b"{}")[:-5])
    (tmp_path / "empty").mkdir()
    for path, reason in (
        ("broken.jsonl.gz", "cannot be read"),
        ("empty", "no .jsonl"),
        ("missing.jsonl", "No such file"),
    ):
        with pytest.raises(ValueError, match=reason):
            list(load_recordings([tmp_path / path]))


def test_a_request_is_the_history_without_annotations_and_demonstrations_are_not_live():
    demonstration = {"role": "assistant", "content": "an example", "_demo": True}
    live = {"role": "assistant", "content": "ls", "_action": "ls"}
    session = recording([OPENING[1], demonstration, OPENING[1], live, {"role": "user", "content": "a b"}, live])
    assert session.answer_positions == (3, 5)
    sent = orjson.loads(session.request_body(5))["messages"]
    assert len(sent) == 5
    assert all(not key.startswith("_") for message in sent for key in message)


def test_no_request_follows_the_last_answer_or_precedes_a_first_message():
    session = recording([{"role": "assistant", "content": "Hello"}, *step(1), *step(2)])
    points = list(decision_points(session, 5.0))
    assert [moment.answer_position for moment in points] == [1, 3]
    assert [moment.last_turn is None for moment in points] == [True, False]


def test_requests_are_evenly_spaced_unless_the_recording_has_gaps():
    messages = circle(3)
    messages[4] = {**messages[4], "_gap": 100.0}
    assert [moment.now for moment in decision_points(recording(messages), 5.0)] == [0.0, 100.0, 105.0, 110.0]


def test_results_are_matched_to_calls_by_id_else_by_position():
    def turn(*ids, answers):
        calls = [{"id": call_id, "function": {"name": f"f{n}", "arguments": "{}"}} for n, call_id in enumerate(ids)]
        results = [
            {"role": "tool", "tool_call_id": call_id, "content": f"for {call_id}{n}"}
            for n, call_id in enumerate(answers)
        ]
        messages = [{"role": "assistant", "content": "x", "tool_calls": calls}, *results]
        return [call.result for call in turn_between(messages, 0, len(messages)).calls]

    assert turn("a", "b", answers=["b", "a"]) == ["for a1", "for b0"]
    assert turn("", "", answers=["", ""]) == ["for 0", "for 1"]
    assert turn("a", "a", answers=["a", "a"]) == ["for a0", "for a1"]
    assert turn("a", "b", answers=["a"]) == ["for a0", None]
    assert turn("a", answers=["a", "z"]) == ["for a0"]


def test_arguments_are_compared_by_value_and_content_may_be_parts():
    def call(arguments):
        raw = [{"function": {"name": "f", "arguments": arguments}}]
        return turn_between([{"role": "assistant", "tool_calls": raw}], 0, 1).calls[0]

    assert call('{"a": 1, "b": 2}') == call('{"b":2,"a":1}') == call({"b": 2, "a": 1})
    assert call("not json") == TurnCall("f", "not json")
    parts = [{"type": "text", "text": "one"}, {"type": "image_url"}, "two"]
    assert turn_between([{"role": "assistant", "content": parts}], 0, 1).text == 'one\n{"type":"image_url"}\ntwo'


def test_consecutive_answers_are_separate_calls():
    session = recording([*OPENING, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}])
    assert [moment.last_turn.text for moment in decision_points(session, 5.0) if moment.last_turn] == ["a"]
