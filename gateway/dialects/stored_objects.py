"""Ids of objects that a provider stores: in paths, in bodies and in answers. Pure.

Requests about an object have to reach the account that has it, so every id is read where it is created or named.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..values.base import Value

# Collections whose next path segment is the id of an object, in the APIs of OpenAI (reference of July 2026), Anthropic
# (Message Batches, Files, Skills), Mistral (batch and fine-tuning jobs, agents, libraries), xAI (videos) and Perplexity
# (asynchronous chat completions).
_COLLECTIONS = frozenset(
    {
        "/responses", "/files", "/batches", "/conversations", "/uploads", "/vector_stores", "/containers", "/videos",
        "/assistants", "/threads", "/evals", "/skills", "/agents", "/libraries", "/messages/batches",
        "/fine_tuning/jobs", "/batch/jobs", "/async/chat/completions",
    }
)  # fmt: skip
# Segments after a collection that name an operation, not an object.
_OPERATIONS = frozenset(
    {"compact", "input_tokens", "generations", "edits", "extensions", "characters", "search", "runs", "completions"}
)
# An id below the first: it has a digit, which names of operations do not have.
_NESTED_ID = re.compile(r"(?=[^/]*[0-9])[A-Za-z0-9_.:~@=+-]{6,256}")
# Ids read of one path, of one body and of one answer.
_PATH_IDS_MAX, _BODY_IDS_MAX, _ANSWER_IDS_MAX = 4, 16, 32
ID_CHARS_MAX = 256
# Fields of bodies that name stored objects.
BODY_ID_FIELDS = (
    "input_file_id", "input_files", "file_id", "file_ids", "training_file", "validation_file", "previous_response_id", "conversation",
    "container", "vector_store_ids", "batch_id", "video_id",
)  # fmt: skip
# Fields of answers that name objects made with the answer: a batch's results, a run's thread, an upload's file.
_ANSWER_ID_FIELDS = ("id", "request_id", "batch_id", "output_file_id", "error_file_id", "thread_id")
_ENDED_STATUSES = ("completed", "failed", "incomplete", "cancelled")


class StateKinds(set[str]):
    """Kinds of provider-bound state in a history (PROVIDER_STATE_KINDS), with the ids of its files."""

    __slots__ = ("_file_ids",)
    # Set by the first file only: most histories have none.
    _file_ids: dict[str, None]

    def add_file(self, id_: str) -> None:
        """Add a file that is named by its id."""
        if "file" not in self:
            self.add("file")
            self._file_ids = {}
        if len(self._file_ids) < _BODY_IDS_MAX and len(id_) <= ID_CHARS_MAX:
            self._file_ids[id_] = None

    @property
    def file_ids(self) -> tuple[str, ...]:
        """The files, in the order of the history."""
        return tuple(self._file_ids) if "file" in self else ()


class ResponseEnd(Value, frozen=True, kw_only=True):
    """The end of a stored response, as a later answer reports it.

    id: the response
    status: completed, incomplete, failed or cancelled
    document: the whole response
    """

    id: str
    status: str
    document: Mapping[str, Any]


def ids_in_path(path: str) -> tuple[str, ...]:
    """Return the ids that a path (below /v1, without its query) names, the outermost first."""
    segments = path.strip("/").split("/")
    for depth in range(1, min(len(segments), 4)):
        if "/" + "/".join(segments[:depth]) in _COLLECTIONS and segments[depth] not in _OPERATIONS:
            nested = [segment for segment in segments[depth + 1 :] if _NESTED_ID.fullmatch(segment)]
            return tuple([segments[depth], *nested][:_PATH_IDS_MAX])
    return ()


def ids_in_values(values: Iterable[Any]) -> tuple[str, ...]:
    """Return the ids among the values of a body's fields: texts, lists of texts, objects with an id."""
    ids: dict[str, None] = {}
    for value in values:
        for item in value if isinstance(value, list) else [value]:
            id_ = item.get("id") if isinstance(item, dict) else item
            if id_ == "auto":
                # A container that is made for the answer.
                continue
            if isinstance(id_, str) and 0 < len(id_) <= ID_CHARS_MAX and len(ids) < _BODY_IDS_MAX:
                ids[id_] = None
    return tuple(ids)


def ids_in_object(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the ids of an object and of what was made with it (a batch's output file), its own first."""
    file = document.get("file")
    values = [document.get(name) for name in _ANSWER_ID_FIELDS]
    values += [file.get("id") if isinstance(file, dict) else None, document.get("result_files")]
    return ids_in_values(values)


def ids_in_response(document: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (ids of containers and files that a response made, ids of its output items)."""
    output = document.get("output")
    items = [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
    objects: dict[str, None] = {}
    for item in items:
        parts = item.get("content")
        notes = [
            note
            for part in (parts if isinstance(parts, list) else ())
            if isinstance(part, dict) and isinstance(part.get("annotations"), list)
            for note in part["annotations"]
            if isinstance(note, dict) and note.get("type") == "container_file_citation"
        ]
        for id_ in [
            item.get("container_id"),
            *(note.get(name) for note in notes for name in ("container_id", "file_id")),
        ]:
            if isinstance(id_, str) and _is_id(id_) and len(objects) < _ANSWER_IDS_MAX:
                objects[id_] = None
    item_ids = [item["id"] for item in items if _is_id(item.get("id"))]
    return tuple(objects), tuple(item_ids[:_ANSWER_IDS_MAX])


def response_end(document: Mapping[str, Any]) -> ResponseEnd | None:
    """Return the end of the response that a document shows; None for any other document, and before the end."""
    id_, status = document.get("id"), document.get("status")
    if not _is_id(id_) or status not in _ENDED_STATUSES or document.get("object", "response") != "response":
        return None
    return ResponseEnd(id=str(id_), status=str(status), document=document)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= ID_CHARS_MAX
