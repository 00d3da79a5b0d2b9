"""Bodies that are forms: files, which are kept, and speech to be written down."""

import email.parser
import email.policy
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from ..directives import Asked, Order, Reply
from ..issued_ids import Mint
from ..usage import Meter, Usage, tokens
from .base import Body, Dialect, Lookup, Told
from .errors import Complaint

_FILES_MAX = 1000


class Form(Dialect):
    """A multipart form as a body: fields by name, files as (name, type, content)."""

    names_model = False

    def parse(self, raw: bytes, content_type: str) -> Body:
        """The fields; a field `sim` holds an order as JSON."""
        head = f"Content-Type: {content_type}\r\n\r\n".encode()
        form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + raw)
        if not form.is_multipart():
            raise ValueError("not a multipart form")
        body: Body = {}
        for part in form.iter_parts():
            name, content = str(part.get_param("name", header="content-disposition")), part.get_payload(decode=True)
            file = part.get_filename()
            body[name] = content.decode() if file is None else (file, part.get_content_type(), content)  # type: ignore[union-attr]
        return {**body, "sim": orjson.loads(body["sim"])} if "sim" in body else body

    def complaints(self, body: Body, headers: Mapping[str, str]) -> Iterator[Complaint]:
        """A form without a file."""
        yield from super().complaints(body, headers)
        if not isinstance(body.get("file"), tuple):
            yield Complaint(
                message="Missing required parameter: 'file'.", slug="missing_required_parameter", param="file"
            )

    def read(self, body: Body) -> Asked:
        """The prompt may carry an order."""
        return Asked(text=str(body.get("prompt") or ""))


class Transcriptions(Form):
    """POST /v1/audio/transcriptions."""

    name = "audio"
    parameters = frozenset(
        {
            "file",
            "model",
            "chunking_strategy",
            "include",
            "include[]",
            "language",
            "prompt",
            "response_format",
            "stream",
        }
        | {"temperature", "timestamp_granularities", "timestamp_granularities[]"}
    )

    def usage(self, body: Body, asked: Asked, reply: Reply, order: Order) -> Usage:
        """Audio by its bytes: a token for every 1000."""
        return Usage(given=len(body["file"][2]) // 1000 + 1, written=tokens([_heard(body)]))

    def whole(self, told: Told) -> Body | str:
        """A transcription, which says what arrived."""
        text = _heard(told.body)
        if told.body.get("response_format") == "text":
            return text + "\n"
        return {"text": text, **({"usage": _spoken(told.usage)} if told.usage else {})}


class Files(Form):
    """POST /v1/files, and what is asked of them afterwards."""

    name = "files"
    parameters = frozenset({"file", "purpose", "expires_after[anchor]", "expires_after[seconds]"})

    def __init__(self, meter: Meter, mint: Mint) -> None:
        super().__init__(meter, mint)
        self._kept: dict[str, tuple[Body, bytes]] = {}

    def usage(self, body: Body, asked: Asked, reply: Reply, order: Order) -> Usage:
        """Free."""
        return Usage(given=0, written=0)

    def whole(self, told: Told) -> Body:
        """The file as an object; it is kept."""
        name, kind, content = told.body["file"]
        id = self.mint.id("file-", told.number)
        made = {"id": id, "object": "file", "bytes": len(content), "created_at": told.created, "filename": name}
        made |= {"purpose": told.body.get("purpose", "user_data"), "status": "processed", "mime_type": kind}
        if len(self._kept) < _FILES_MAX:
            self._kept[id] = (made, content)
        return made

    def lookups(self) -> dict[str, Lookup]:
        """One file, its content, all of them, and away with it."""
        return {
            "GET /v1/files": self._all,
            "GET /v1/files/{id}": lambda id, _: self._kept[id][0] if id in self._kept else _no_file(id),
            "GET /v1/files/{id}/content": lambda id, _: self._kept[id][1] if id in self._kept else _no_file(id),
            "DELETE /v1/files/{id}": self._delete,
        }

    def _all(self, id: str, anthropic: bool) -> Body:
        return {"object": "list", "data": [made for made, _ in self._kept.values()], "has_more": False}

    def _delete(self, id: str, anthropic: bool) -> Body | Complaint:
        if self._kept.pop(id, None) is None:
            return _no_file(id)
        return {"id": id, "object": "file", "deleted": True}


def _no_file(id: str) -> Complaint:
    return Complaint(status=404, message=f"No such File object: {id}", param="id")


def _heard(body: Body) -> str:
    name, _, content = body["file"]
    return f"I hear {len(content)} bytes of {name}."


def _spoken(usage: Usage) -> dict[str, Any]:
    return {
        "type": "tokens",
        "input_tokens": usage.given,
        "input_token_details": {"text_tokens": 0, "audio_tokens": usage.given},
        "output_tokens": usage.written,
        "total_tokens": usage.given + usage.written,
    }
