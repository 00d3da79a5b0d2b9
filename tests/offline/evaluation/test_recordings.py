"""Reading recordings: what is a session, what is not, and what a rule is shown of it."""

import gzip
import json

import orjson
import pytest

from gateway.offline.evaluation.decision_points import TurnCall, decision_points, turn_between
from gateway.offline.evaluation.recordings import load_recordings
from tests.offline.evaluation.trajectories import OPENING, circle, line, recording, step


def written(path, *lines):
    text = "".join(json.dumps(one) + "\n" if isinstance(one, dict) else one for one in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_files_and_folders_are_read_gzipped_or_not(tmp_path):
    written(tmp_path / "b.jsonl.gz", line(circle(1), id="two"), "\n", line(circle(1), id="three"))
    written(tmp_path / "a.jsonl", line(circle(1), id="one"))
    written(tmp_path / "notes.txt", "not data")
    assert [one.id for one in load_recordings([tmp_path])] == ["one", "two", "three"]
    assert [one.id for one in load_recordings([tmp_path / "a.jsonl"])] == ["one"]


def test_only_id_and_messages_have_to_be_there(tmp_path):
    (one,) = load_recordings([written(tmp_path / "lab.jsonl", {"id": "x", "messages": OPENING, "more": 1})])
    assert (one.source, one.label, one.onset, one.cost_usd) == ("lab", "unknown", None, None)


@pytest.mark.parametrize("label", [None, "unknown_cap", "fine"])
def test_any_other_label_is_unknown(tmp_path, label):
    (one,) = load_recordings([written(tmp_path / "lab.jsonl", line(OPENING, label=label))])
    assert one.label == "unknown"


@pytest.mark.parametrize(
    "more",
    [{"id": "syn/1"}, {"source": "synthetic continuation of x"}, {"label_provenance": "SYNTHETIC exact, seed 1"}],
)
def test_made_up_sessions_are_known_and_grouped_by_how_they_were_made(tmp_path, more):
    (one,) = load_recordings(
        [written(tmp_path / "lab.jsonl", line(OPENING, label="loop", loop_class="syn_exact", **more))]
    )
    assert one.synthetic
    assert one.source == "synthetic loop: syn_exact"


@pytest.mark.parametrize(
    ("bad", "why"),
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
def test_a_bad_line_is_named_with_its_file_and_number(tmp_path, bad, why):
    path = written(tmp_path / "bad.jsonl", line(circle(1)), bad)
    with pytest.raises(ValueError, match=rf"bad\.jsonl:2: not a session: .*{why}"):
        list(load_recordings([path]))


def test_what_cannot_be_read_says_so(tmp_path):
    (tmp_path / "broken.jsonl.gz").write_bytes(gzip.compress(b"{}")[:-5])
    (tmp_path / "empty").mkdir()
    for path, why in (("broken.jsonl.gz", "cannot be read"), ("empty", "no .jsonl"), ("missing.jsonl", "No such file")):
        with pytest.raises(ValueError, match=why):
            list(load_recordings([tmp_path / path]))


def test_a_request_is_the_history_without_annotations_and_demonstrations_are_not_live():
    shown = {"role": "assistant", "content": "an example", "_demo": True}
    live = {"role": "assistant", "content": "ls", "_action": "ls"}
    one = recording([OPENING[1], shown, OPENING[1], live, {"role": "user", "content": "a b"}, live])
    assert one.answer_positions == (3, 5)
    sent = orjson.loads(one.request_body(5))["messages"]
    assert len(sent) == 5
    assert all(not key.startswith("_") for message in sent for key in message)


def test_there_is_no_request_after_the_last_answer_and_none_for_an_answer_at_the_head():
    one = recording([{"role": "assistant", "content": "Hello"}, *step(1), *step(2)])
    seen = list(decision_points(one, 5.0))
    assert [moment.answer_position for moment in seen] == [1, 3]
    assert [moment.last_turn is None for moment in seen] == [True, False]


def test_time_passes_steadily_unless_the_recording_says_otherwise():
    messages = circle(3)
    messages[4] = {**messages[4], "_gap": 100.0}
    assert [moment.now for moment in decision_points(recording(messages), 5.0)] == [0.0, 100.0, 105.0, 110.0]


def test_results_find_their_call_by_id_and_else_by_position():
    def turn(*ids, answers):
        calls = [{"id": one, "function": {"name": f"f{n}", "arguments": "{}"}} for n, one in enumerate(ids)]
        results = [{"role": "tool", "tool_call_id": one, "content": f"for {one}{n}"} for n, one in enumerate(answers)]
        messages = [{"role": "assistant", "content": "x", "tool_calls": calls}, *results]
        return [call.result for call in turn_between(messages, 0, len(messages)).calls]

    assert turn("a", "b", answers=["b", "a"]) == ["for a1", "for b0"]
    assert turn("", "", answers=["", ""]) == ["for 0", "for 1"]
    assert turn("a", "a", answers=["a", "a"]) == ["for a0", "for a1"]
    assert turn("a", "b", answers=["a"]) == ["for a0", None]
    assert turn("a", answers=["a", "z"]) == ["for a0"]


def test_arguments_count_by_value_and_content_may_be_parts():
    def call(arguments):
        raw = [{"function": {"name": "f", "arguments": arguments}}]
        return turn_between([{"role": "assistant", "tool_calls": raw}], 0, 1).calls[0]

    assert call('{"a": 1, "b": 2}') == call('{"b":2,"a":1}') == call({"b": 2, "a": 1})
    assert call("not json") == TurnCall("f", "not json")
    parts = [{"type": "text", "text": "one"}, {"type": "image_url"}, "two"]
    assert turn_between([{"role": "assistant", "content": parts}], 0, 1).text == 'one\n{"type":"image_url"}\ntwo'


def test_consecutive_answers_are_calls_of_their_own():
    one = recording([*OPENING, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}])
    assert [moment.last_turn.text for moment in decision_points(one, 5.0) if moment.last_turn] == ["a"]
