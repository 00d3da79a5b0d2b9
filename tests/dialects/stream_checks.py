"""Checks that a stream is valid in its dialect; each returns the reason of its end."""

from collections import Counter
from typing import Any

from gateway.dialects import sse

CALL_ITEM_TYPES = ("function_call", "custom_tool_call", "web_search_call", "code_interpreter_call")


def payloads(raw: bytes) -> list[dict[str, Any]]:
    return [payload for event in sse.events_of(raw) if (payload := sse.payload_of(event)) is not None]


def check_chat_stream(raw: bytes, *, usage: bool = True) -> dict[int, str]:
    """Return the finish reason of each choice."""
    ends = [sse.data_of(event) == b"[DONE]" for event in sse.events_of(raw)]
    assert ends.count(True) == 1 and ends[-1], "one end mark, and no event after it"
    chunks = payloads(raw)
    assert len({(chunk["id"], chunk["object"], chunk["model"]) for chunk in chunks if chunk["id"]}) <= 1
    reasons: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            assert choice["index"] not in reasons, "no chunk follows the end of its choice"
            assert "text" in choice if chunk["object"] == "text_completion" else "delta" in choice
            if choice["finish_reason"]:
                reasons[choice["index"]] = choice["finish_reason"]
    assert {choice["index"] for chunk in chunks for choice in chunk["choices"]} == set(reasons)
    usage_indexes = [index for index, chunk in enumerate(chunks) if chunk.get("usage")]
    assert usage_indexes == ([len(chunks) - 1] if usage else []), "usage is sent once, last, and only if requested"
    assert all(
        set(chunks[index]["usage"]) >= {"prompt_tokens", "completion_tokens", "total_tokens"} for index in usage_indexes
    )
    return reasons


def check_messages_stream(raw: bytes) -> str:
    """Return the stop reason."""
    events = [event for event in payloads(raw) if event["type"] != "ping"]
    kinds = [event["type"] for event in events]
    assert raw.count(b"event: ") == len(payloads(raw)), "every event is named"
    assert (kinds[0], kinds[-2], kinds[-1]) == ("message_start", "message_delta", "message_stop"), kinds
    assert [Counter(kinds)[kind] for kind in ("message_start", "message_delta", "message_stop")] == [1, 1, 1]
    started: list[int] = []
    open_blocks: set[int] = set()
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            assert event["index"] == len(started), "blocks are numbered as they begin"
            started.append(event["index"])
            open_blocks.add(event["index"])
        elif event["type"] == "content_block_stop":
            open_blocks.remove(event["index"])
        else:
            assert event["type"] == "content_block_delta" and event["index"] in open_blocks
    assert not open_blocks
    assert events[-2]["usage"]["output_tokens"] > 0
    assert events[-2]["delta"]["stop_sequence"] is None
    return events[-2]["delta"]["stop_reason"]


def check_responses_stream(raw: bytes) -> str:
    """Return why the response is incomplete, "" if it is complete."""
    events = payloads(raw)
    kinds = [event["type"] for event in events]
    assert raw.count(b"event: ") == len(events), "every event is named"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert kinds[0] == "response.created"
    terminals = [index for index, kind in enumerate(kinds) if kind in ("response.completed", "response.incomplete")]
    assert terminals == [len(events) - 1], "one end event, and no event after it"
    response = events[-1]["response"]
    assert (response["object"], response["error"]) == ("response", None)
    assert response["id"] == events[0]["response"]["id"]
    assert kinds[-1] == f"response.{response['status']}"
    assert (
        response["usage"]["total_tokens"] == response["usage"]["input_tokens"] + response["usage"]["output_tokens"] > 0
    )
    _check_items(events, response["output"])
    _check_texts(events, response["output"])
    return (response["incomplete_details"] or {"reason": ""})["reason"]


def _check_items(events: list[dict[str, Any]], output: list[dict[str, Any]]) -> None:
    """Every item was added, all but calls were done, and the last event repeats them unchanged."""
    added = {event["output_index"]: event["item"] for event in events if event["type"] == "response.output_item.added"}
    done = {event["output_index"]: event["item"] for event in events if event["type"] == "response.output_item.done"}
    assert sorted(added) == list(range(len(output)))
    assert [item["id"] for item in output] == [added[index]["id"] for index in sorted(added)]
    for index, item in enumerate(output):
        assert item.get("status") != "in_progress"
        if index in done:
            assert done[index] == item
        else:
            assert item["type"] in CALL_ITEM_TYPES and item["status"] == "incomplete"


def _check_texts(events: list[dict[str, Any]], output: list[dict[str, Any]]) -> None:
    """Texts sent in deltas were done, and the last event repeats them."""
    index_fields = ("output_index", "content_index", "summary_index")
    texts: dict[Any, str] = {}
    done: dict[Any, str] = {}
    open_parts: Counter[Any] = Counter()
    for event in events:
        name, _, phase = event["type"].removeprefix("response.").rpartition(".")
        key = (name, *(event.get(field) for field in index_fields))
        if phase == "delta":
            assert key not in done
            texts[key] = texts.get(key, "") + event["delta"]
        elif phase == "done" and name.endswith(("_text", "refusal", "_arguments", "_input")):
            assert key not in done
            done[key] = next(event[field] for field in ("text", "refusal", "arguments", "input") if field in event)
        elif name.endswith("_part"):
            open_parts[key] += 1 if phase == "added" else -1
    assert not any(open_parts.values()), "all added parts were done"
    for (name, index, content, summary), text in texts.items():
        item = output[index]
        if item["type"] in CALL_ITEM_TYPES:
            assert item.get("arguments", item.get("input")) == text
            continue
        part = item["content"][content] if summary is None else item["summary"][summary]
        assert text == done[name, index, content, summary] == part.get("text", part.get("refusal"))
