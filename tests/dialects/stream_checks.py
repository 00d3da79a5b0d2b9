"""What the streams of each dialect have to look like, whoever ended them; each check gives the reason of the end."""

from collections import Counter
from typing import Any

from gateway.dialects import sse

CALL_ITEM_TYPES = ("function_call", "custom_tool_call", "web_search_call", "code_interpreter_call")


def payloads(raw: bytes) -> list[dict[str, Any]]:
    return [payload for event in sse.events_of(raw) if (payload := sse.payload_of(event)) is not None]


def check_chat_stream(raw: bytes, *, usage: bool = True) -> dict[int, str]:
    """The reason of each choice."""
    ends = [sse.data_of(event) == b"[DONE]" for event in sse.events_of(raw)]
    assert ends.count(True) == 1 and ends[-1], "one end, and nothing after it"
    chunks = payloads(raw)
    assert len({(chunk["id"], chunk["object"], chunk["model"]) for chunk in chunks if chunk["id"]}) <= 1
    reasons: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            assert choice["index"] not in reasons, "nothing comes after a choice has ended"
            assert "text" in choice if chunk["object"] == "text_completion" else "delta" in choice
            if choice["finish_reason"]:
                reasons[choice["index"]] = choice["finish_reason"]
    assert {choice["index"] for chunk in chunks for choice in chunk["choices"]} == set(reasons)
    counts = [place for place, chunk in enumerate(chunks) if chunk.get("usage")]
    assert counts == ([len(chunks) - 1] if usage else []), "usage is told once, last, and to who asked"
    assert all(
        set(chunks[place]["usage"]) >= {"prompt_tokens", "completion_tokens", "total_tokens"} for place in counts
    )
    return reasons


def check_messages_stream(raw: bytes) -> str:
    """The stop reason."""
    found = [event for event in payloads(raw) if event["type"] != "ping"]
    kinds = [event["type"] for event in found]
    assert raw.count(b"event: ") == len(payloads(raw)), "every event is named"
    assert (kinds[0], kinds[-2], kinds[-1]) == ("message_start", "message_delta", "message_stop"), kinds
    assert [Counter(kinds)[kind] for kind in ("message_start", "message_delta", "message_stop")] == [1, 1, 1]
    begun: list[int] = []
    open_blocks: set[int] = set()
    for event in found[1:-2]:
        if event["type"] == "content_block_start":
            assert event["index"] == len(begun), "blocks are numbered as they begin"
            begun.append(event["index"])
            open_blocks.add(event["index"])
        elif event["type"] == "content_block_stop":
            open_blocks.remove(event["index"])
        else:
            assert event["type"] == "content_block_delta" and event["index"] in open_blocks
    assert not open_blocks
    assert found[-2]["usage"]["output_tokens"] > 0
    assert found[-2]["delta"]["stop_sequence"] is None
    return found[-2]["delta"]["stop_reason"]


def check_responses_stream(raw: bytes) -> str:
    """The reason why the response is incomplete, "" if it is not."""
    found = payloads(raw)
    kinds = [event["type"] for event in found]
    assert raw.count(b"event: ") == len(found), "every event is named"
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert kinds[0] == "response.created"
    terminals = [place for place, kind in enumerate(kinds) if kind in ("response.completed", "response.incomplete")]
    assert terminals == [len(found) - 1], "one end, and nothing after it"
    response = found[-1]["response"]
    assert (response["object"], response["error"]) == ("response", None)
    assert response["id"] == found[0]["response"]["id"]
    assert kinds[-1] == f"response.{response['status']}"
    assert (
        response["usage"]["total_tokens"] == response["usage"]["input_tokens"] + response["usage"]["output_tokens"] > 0
    )
    _check_items(found, response["output"])
    _check_texts(found, response["output"])
    return (response["incomplete_details"] or {"reason": ""})["reason"]


def _check_items(found: list[dict[str, Any]], output: list[dict[str, Any]]) -> None:
    """Every item began, every one but calls was done, and the last event repeats them all as they stood."""
    added = {e["output_index"]: e["item"] for e in found if e["type"] == "response.output_item.added"}
    done = {e["output_index"]: e["item"] for e in found if e["type"] == "response.output_item.done"}
    assert sorted(added) == list(range(len(output)))
    assert [item["id"] for item in output] == [added[place]["id"] for place in sorted(added)]
    for place, item in enumerate(output):
        assert item.get("status") != "in_progress"
        if place in done:
            assert done[place] == item
        else:
            assert item["type"] in CALL_ITEM_TYPES and item["status"] == "incomplete"


def _check_texts(found: list[dict[str, Any]], output: list[dict[str, Any]]) -> None:
    """What was told in pieces was closed, and stands in the last event."""
    places = ("output_index", "content_index", "summary_index")
    pieces: dict[Any, str] = {}
    said: dict[Any, str] = {}
    parts: Counter[Any] = Counter()
    for event in found:
        name, _, phase = event["type"].removeprefix("response.").rpartition(".")
        key = (name, *(event.get(place) for place in places))
        if phase == "delta":
            assert key not in said
            pieces[key] = pieces.get(key, "") + event["delta"]
        elif phase == "done" and name.endswith(("_text", "refusal", "_arguments", "_input")):
            assert key not in said
            said[key] = next(event[field] for field in ("text", "refusal", "arguments", "input") if field in event)
        elif name.endswith("_part"):
            parts[key] += 1 if phase == "added" else -1
    assert not any(parts.values()), "parts that began were done"
    for (name, index, content, summary), text in pieces.items():
        item = output[index]
        if item["type"] in CALL_ITEM_TYPES:
            assert item.get("arguments", item.get("input")) == text
            continue
        part = item["content"][content] if summary is None else item["summary"][summary]
        assert text == said[name, index, content, summary] == part.get("text", part.get("refusal"))
