"""Dialects with multipart bodies: files and transcriptions."""

import email.parser
import email.policy
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from ..directives import Directive, SimulatedReply, SimulatedRequest
from ..issued_ids import IdIssuer
from ..usage import PromptCache, SimulatedUsage, text_tokens
from .base import AnswerContent, Body, ResourceHandler, SimulatedDialect
from .errors import ApiError

_MAX_FILES = 1000


class MultipartDialect(SimulatedDialect):
    """A multipart form as a body: fields by name, files as (name, type, content)."""

    requires_model = False

    def parse_body(self, raw: bytes, content_type: str) -> Body:
        """The fields; a field `sim` holds a directive as JSON."""
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

    def validation_errors(self, body: Body, headers: Mapping[str, str]) -> Iterator[ApiError]:
        """Unknown parameters, then a missing file."""
        yield from super().validation_errors(body, headers)
        if not isinstance(body.get("file"), tuple):
            yield ApiError(
                message="Missing required parameter: 'file'.", openai_code="missing_required_parameter", param="file"
            )

    def parse_request(self, body: Body) -> SimulatedRequest:
        """The prompt, which may carry a directive."""
        return SimulatedRequest(text=str(body.get("prompt") or ""))


class Transcriptions(MultipartDialect):
    """POST /v1/audio/transcriptions."""

    name = "audio"
    known_parameters = frozenset(
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

    def usage(
        self, body: Body, request: SimulatedRequest, reply: SimulatedReply, directive: Directive
    ) -> SimulatedUsage:
        """Audio by its bytes: a token per 1000."""
        return SimulatedUsage(
            input_tokens=len(body["file"][2]) // 1000 + 1, output_tokens=text_tokens([_transcript(body)])
        )

    def document(self, answer: AnswerContent) -> Body | str:
        """A transcription that describes the file."""
        text = _transcript(answer.body)
        if answer.body.get("response_format") == "text":
            return text + "\n"
        return {"text": text, **({"usage": _usage_body(answer.usage)} if answer.usage else {})}


class Files(MultipartDialect):
    """POST /v1/files, and the stored files."""

    name = "files"
    known_parameters = frozenset({"file", "purpose", "expires_after[anchor]", "expires_after[seconds]"})

    def __init__(self, prompt_cache: PromptCache, ids: IdIssuer) -> None:
        super().__init__(prompt_cache, ids)
        self._files: dict[str, tuple[Body, bytes]] = {}

    def usage(
        self, body: Body, request: SimulatedRequest, reply: SimulatedReply, directive: Directive
    ) -> SimulatedUsage:
        """Free of charge."""
        return SimulatedUsage(input_tokens=0, output_tokens=0)

    def document(self, answer: AnswerContent) -> Body:
        """The file object; the file is stored."""
        name, kind, content = answer.body["file"]
        id = self.ids.id("file-", answer.sequence_number)
        file_object = {
            "id": id,
            "object": "file",
            "bytes": len(content),
            "created_at": answer.created_at,
            "filename": name,
        }
        file_object |= {"purpose": answer.body.get("purpose", "user_data"), "status": "processed", "mime_type": kind}
        if len(self._files) < _MAX_FILES:
            self._files[id] = (file_object, content)
        return file_object

    def resource_routes(self) -> dict[str, ResourceHandler]:
        """One file, its content, the list of files, and deletion."""
        return {
            "GET /v1/files": self._list,
            "GET /v1/files/{id}": lambda id, _: self._files[id][0] if id in self._files else _file_not_found(id),
            "GET /v1/files/{id}/content": lambda id, _: (
                self._files[id][1] if id in self._files else _file_not_found(id)
            ),
            "DELETE /v1/files/{id}": self._delete,
        }

    def _list(self, id: str, anthropic: bool) -> Body:
        return {"object": "list", "data": [file_object for file_object, _ in self._files.values()], "has_more": False}

    def _delete(self, id: str, anthropic: bool) -> Body | ApiError:
        if self._files.pop(id, None) is None:
            return _file_not_found(id)
        return {"id": id, "object": "file", "deleted": True}


def _file_not_found(id: str) -> ApiError:
    return ApiError(status=404, message=f"No such File object: {id}", param="id")


def _transcript(body: Body) -> str:
    name, _, content = body["file"]
    return f"I hear {len(content)} bytes of {name}."


def _usage_body(usage: SimulatedUsage) -> dict[str, Any]:
    return {
        "type": "tokens",
        "input_tokens": usage.input_tokens,
        "input_token_details": {"text_tokens": 0, "audio_tokens": usage.input_tokens},
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
