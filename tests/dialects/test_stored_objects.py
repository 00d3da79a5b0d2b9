"""Ids of stored objects in paths, bodies and answers."""

from typing import Any

import pytest

from gateway.dialects import stored_objects


@pytest.mark.parametrize(
    "path, ids",
    [
        ("/responses/resp_1", ("resp_1",)),
        ("/responses/resp_1/input_items", ("resp_1",)),
        ("/responses", ()),
        ("/responses/compact", ()),
        ("/responses/input_tokens", ()),
        ("/conversations/conv_1/items/msg_12345", ("conv_1", "msg_12345")),
        ("/files/file-abc/content", ("file-abc",)),
        ("/batches/batch_1/cancel", ("batch_1",)),
        ("/messages/batches/msgbatch_01/results", ("msgbatch_01",)),
        ("/messages/batches", ()),
        ("/messages/count_tokens", ()),
        ("/containers/cntr_1/files/cfile_682e0e8a/content", ("cntr_1", "cfile_682e0e8a")),
        ("/vector_stores/vs_1/file_batches/vsfb_123/files", ("vs_1", "vsfb_123")),
        ("/videos/video_1/remix", ("video_1",)),
        ("/videos/generations", ()),
        ("/fine_tuning/jobs/ftjob-1/checkpoints", ("ftjob-1",)),
        ("/threads/thread_1/runs/run_1234/steps/step_1234", ("thread_1", "run_1234", "step_1234")),
        ("/threads/runs", ()),
        ("/async/chat/completions/req-1", ("req-1",)),
        ("/images/generations", ()),
        ("/audio/transcriptions", ()),
        ("/responses/" + "/".join(f"abcdef{n}" for n in range(9)), ("abcdef0", "abcdef1", "abcdef2", "abcdef3")),
    ],
)
def test_a_path_names_the_objects_that_it_is_about(path: str, ids: tuple[str, ...]):
    assert stored_objects.ids_in_path(path) == ids


@pytest.mark.parametrize(
    "values, ids",
    [
        (["file-1", None], ("file-1",)),
        ([["file-1", "file-2"], "file-1"], ("file-1", "file-2")),
        ([{"id": "conv_1"}, {"type": "auto"}], ("conv_1",)),
        ([7, True, {"id": 7}, [[["x"]]], "", "x" * 257], ()),
        ([[f"f{n}" for n in range(40)]], tuple(f"f{n}" for n in range(16))),
    ],
    ids=["texts", "lists without duplicates", "objects with an id", "anything else", "many"],
)
def test_fields_of_a_body_name_objects(values: list[Any], ids: tuple[str, ...]):
    assert stored_objects.ids_in_values(values) == ids


@pytest.mark.parametrize(
    "document, ids",
    [
        ({"id": "file-1", "object": "file"}, ("file-1",)),
        ({"id": "batch_1", "output_file_id": "file-2", "error_file_id": None}, ("batch_1", "file-2")),
        ({"id": "upload_1", "file": {"id": "file-3"}}, ("upload_1", "file-3")),
        ({"id": "ftjob-1", "result_files": ["file-4", "file-5"]}, ("ftjob-1", "file-4", "file-5")),
        ({"id": "run_1", "thread_id": "thread_1"}, ("run_1", "thread_1")),
        ({"request_id": "a-1"}, ("a-1",)),
        ({"object": "list", "data": [{"id": "file-9"}]}, ()),
        ({"id": 7, "file": "x", "result_files": 7}, ()),
    ],
    ids=["a file", "a batch", "an upload", "a fine-tuning job", "a run", "a video of xAI", "lists may hold others' objects", "wrong types"],
)  # fmt: skip
def test_an_answer_names_what_was_made(document: dict[str, Any], ids: tuple[str, ...]):
    assert stored_objects.ids_in_object(document) == ids


def test_a_response_names_its_items_and_the_containers_and_files_that_it_made():
    citation = {"type": "container_file_citation", "container_id": "cntr_1", "file_id": "cfile_1"}
    output = [
        {"type": "reasoning", "id": "rs_1"},
        {"type": "code_interpreter_call", "id": "ci_1", "container_id": "cntr_1"},
        {"type": "message", "id": "msg_1", "content": [{"annotations": [citation, {"type": "file_citation", "file_id": "file-1"}, 7]}, 7]},
        {"type": "function_call"}, 7,
    ]  # fmt: skip
    assert stored_objects.ids_in_response({"output": output}) == (("cntr_1", "cfile_1"), ("rs_1", "ci_1", "msg_1"))
    assert stored_objects.ids_in_response({"output": 7}) == ((), ())
    many = [{"type": "message", "id": f"msg_{n}"} for n in range(99)]
    assert len(stored_objects.ids_in_response({"output": many})[1]) == 32


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed", "cancelled"])
def test_a_status_ends_a_response(status: str):
    end = stored_objects.response_end({"id": "resp_1", "object": "response", "status": status})
    assert end is not None and (end.id, end.status) == ("resp_1", status)


@pytest.mark.parametrize(
    "document",
    [
        {"id": "resp_1", "object": "response", "status": "queued"},
        {"id": "resp_1", "object": "response", "status": "in_progress"},
        {"id": "resp_1", "object": "response", "deleted": True},
        {"object": "list", "data": [], "status": "completed"},
        {"id": "batch_1", "object": "batch", "status": "completed"},
        {"id": "resp_1", "status": {}},
    ],
    ids=["queued", "running", "deleted", "a list", "a batch", "a wrong type"],
)
def test_other_documents_are_no_end(document: dict[str, Any]):
    assert stored_objects.response_end(document) is None
