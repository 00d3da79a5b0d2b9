"""What answers cost, at the bundled prices: audio, images, tools, further calls, tiers, and the provider's own figure."""

import contextlib
import json
from typing import Any

import pytest

from gateway.config.load import parse
from gateway.dialects import chat, messages, passthrough, responses
from gateway.simulator.playbook import CALLER, JSON_HEADERS, Playbook, UpstreamAnswer
from gateway.values.errors import BrokenResponse
from gateway.values.ledger_entry import LedgerEntry
from gateway.values.request import HeaderHints, Request
from gateway.values.units import NUSD_PER_USD

CONFIG = """
version: 1
access: open
providers:
  up: {{base_url: "http://127.0.0.1:1/v1", dialect: {dialect}}}
deployments:
  a: {{provider: up, model: "{model}", tier: small}}
routes:
  a: {{candidates: [a]}}
"""


async def entry_of(model: str, request: Request, answer: dict[str, Any], *, dialect: str = "openai") -> LedgerEntry:
    snapshot = parse(CONFIG.format(model=model, dialect=dialect), "p.yaml", {})[0]
    book = Playbook(snapshot, [UpstreamAnswer(headers=JSON_HEADERS, body=[json.dumps(answer).encode()])])
    await book.pipeline.serve(request, CALLER, HeaderHints(), book.caller_stream)
    return book.ledger_entries[-1]


async def chat_entry(
    model: str, usage: dict[str, Any], answer: dict[str, Any] | None = None, **asked: Any
) -> LedgerEntry:
    body = {"model": "a", "messages": [{"role": "user", "content": "hi"}], **asked}
    choices = [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}]
    whole = {"id": "c1", "object": "chat.completion", "choices": choices, "usage": usage, **(answer or {})}
    return await entry_of(model, chat.parse(json.dumps(body).encode()), whole)


async def messages_entry(model: str, usage: dict[str, Any], **asked: Any) -> LedgerEntry:
    body = {"model": "a", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}], **asked}
    content = [{"type": "text", "text": "hello"}]
    whole = {
        "id": "m1", "type": "message", "role": "assistant", "content": content, "stop_reason": "end_turn", "usage": usage,
    }  # fmt: skip
    return await entry_of(model, messages.parse(json.dumps(body).encode()), whole, dialect="anthropic")


async def test_an_answer_in_speech_costs_what_speech_costs():
    """17 x 2.5 + 110 x 10 + 482 x 64 USD per million."""
    entry = await chat_entry(
        "gpt-audio",
        {
            "prompt_tokens": 17, "completion_tokens": 592, "total_tokens": 609,
            "prompt_tokens_details": {"text_tokens": 17, "audio_tokens": 0},
            "completion_tokens_details": {"text_tokens": 110, "audio_tokens": 482},
        },
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "wav"},
    )  # fmt: skip
    assert (entry.charge_nusd, entry.usage_basis) == (31_990_500, "exact")
    assert entry.charge_nusd <= entry.hold_nusd


async def test_searches_of_the_provider_are_charged_and_held():
    entry = await messages_entry(
        "claude-sonnet-4-5",
        {"input_tokens": 100, "output_tokens": 100, "server_tool_use": {"web_search_requests": 5}},
        tools=[{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}],
    )
    assert entry.charge_nusd == 51_800_000
    assert entry.hold_nusd >= 50_000_000


# Recorded by Pydantic AI (test_anthropic_compaction_end_to_end, test_anthropic_advisor_tool, 2026).
COMPACTION = {
    "input_tokens": 220, "output_tokens": 8, "service_tier": "standard", "inference_geo": "global",
    "iterations": [
        {"type": "compaction", "input_tokens": 55196, "output_tokens": 125},
        {"type": "message", "input_tokens": 220, "output_tokens": 8},
    ],
}  # fmt: skip
ADVISOR = {
    "input_tokens": 2390, "output_tokens": 121, "service_tier": "standard",
    "iterations": [
        {"type": "message", "input_tokens": 1128, "output_tokens": 110},
        {"type": "advisor_message", "model": "claude-opus-4-8", "input_tokens": 2518, "output_tokens": 22},
        {"type": "message", "input_tokens": 1262, "output_tokens": 11},
    ],
}  # fmt: skip


async def test_a_compaction_is_charged_beside_the_answer():
    entry = await messages_entry("claude-sonnet-4-6", COMPACTION)
    assert (entry.input_tokens, entry.output_tokens, entry.charge_nusd) == (55416, 133, 168_243_000)


async def test_an_advisor_is_charged_at_its_own_price():
    """2390 x 3 + 121 x 15 of the model, 2518 x 5 + 22 x 25 USD per million of its advisor."""
    entry = await messages_entry("claude-sonnet-4-6", ADVISOR)
    assert entry.charge_nusd == 8_985_000 + 13_140_000
    assert entry.unpriced_parts == ""


async def test_an_advisor_without_a_price_is_named():
    usage = json.loads(json.dumps(ADVISOR).replace("claude-opus-4-8", "own-1"))
    entry = await messages_entry("claude-sonnet-4-6", usage)
    assert (entry.charge_nusd, entry.unpriced_parts, entry.priced) == (8_985_000, "own-1", 1)


# Anthropic, fast mode: twice the price of Opus 4.8 (platform.claude.com/docs/en/build-with-claude/fast-mode); US-only
# inference 1.1 times (data-residency), both read 2026-11-29.
@pytest.mark.parametrize(
    "named, tier, factor",
    [
        ({}, "", 1.0),
        ({"speed": "fast"}, "fast", 2.0),
        ({"inference_geo": "us"}, "", 1.1),
        ({"speed": "fast", "inference_geo": "us"}, "fast", 2.2),
        ({"service_tier": "batch"}, "batch", 0.5),
        ({"service_tier": "priority"}, "", 1.0),
    ],
    ids=["standard", "fast", "in the US", "fast in the US", "batch", "capacity under contract"],
)
async def test_anthropic_charges_at_the_speed_tier_and_region_that_the_answer_names(named, tier, factor):
    entry = await messages_entry("claude-opus-4-8", {"input_tokens": 1000, "output_tokens": 100, **named})
    assert entry.charge_nusd == round(factor * 7_500_000)
    assert (entry.service_tier, entry.unpriced_parts) == (tier, "")


# OpenAI (developers.openai.com pricing, 2026-11-29): flex half, priority twice the standard price of gpt-5.
@pytest.mark.parametrize("tier, usd", [("default", 0.00225), ("flex", 0.001125), ("priority", 0.0045)])
async def test_openai_charges_at_the_tier_that_the_answer_names_not_the_one_asked_for(tier, usd):
    entry = await chat_entry(
        "gpt-5", {"prompt_tokens": 1000, "completion_tokens": 100}, {"service_tier": tier}, service_tier="priority"
    )
    assert entry.charge_nusd == round(usd * NUSD_PER_USD)
    assert entry.hold_nusd >= 2 * 1000 * 100, "held at priority"


async def test_the_cost_that_a_provider_reports_is_kept_beside_ours():
    # OpenRouter (openrouter.ai/docs/use-cases/usage-accounting, 2026-11-29): cost in US dollars.
    entry = await chat_entry("gpt-5", {"prompt_tokens": 1000, "completion_tokens": 100, "cost": 0.0023})
    assert (entry.charge_nusd, entry.reported_cost_nusd) == (2_250_000, 2_300_000)
    plain = await chat_entry("gpt-5", {"prompt_tokens": 1000, "completion_tokens": 100})
    assert plain.reported_cost_nusd == 0


async def test_an_image_costs_its_tokens_of_text_and_of_images():
    body = json.dumps({"model": "a", "prompt": "cat"}).encode()
    request = passthrough.parse("POST", "/images/generations", "application/json", body, "openai")
    usage = {
        "total_tokens": 1100, "input_tokens": 100, "output_tokens": 1000,
        "input_tokens_details": {"text_tokens": 50, "image_tokens": 50},
    }  # fmt: skip
    entry = await entry_of("gpt-image-1", request, {"created": 1, "data": [{"b64_json": "aGk="}], "usage": usage})
    assert (entry.charge_nusd, entry.priced) == (40_750_000, 1)


async def test_an_image_without_reported_tokens_costs_its_quality_and_size():
    body = json.dumps({"model": "a", "prompt": "cat", "n": 2, "quality": "high", "size": "1024x1536"}).encode()
    request = passthrough.parse("POST", "/images/generations", "application/json", body, "openai")
    entry = await entry_of("gpt-image-1.5", request, {"created": 1, "data": [{"url": "x"}, {"url": "y"}]})
    assert entry.charge_nusd == 2 * 200_000_000


async def test_a_minute_of_transcription_costs_its_fee_once():
    form = b'--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\na\r\n--XX--\r\n'
    request = passthrough.parse("POST", "/audio/transcriptions", "multipart/form-data; boundary=XX", form, "openai")
    answer = {"text": "hello", "duration": 60.0, "usage": {"type": "duration", "seconds": 60}}
    assert (await entry_of("whisper-1", request, answer)).charge_nusd == 6_000_000


async def test_a_rerank_costs_its_search_units():
    # Cohere (docs.cohere.com/reference/rerank, 2026-11-29).
    body = json.dumps({"model": "a", "query": "q", "documents": ["d"] * 150}).encode()
    request = passthrough.parse("POST", "/rerank", "application/json", body, "openai")
    answer = {"results": [], "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 2}}}
    assert (await entry_of("rerank-v3.5", request, answer)).charge_nusd == 4_000_000


async def test_pages_and_videos_cost_by_the_page_and_the_second():
    # Mistral (docs.mistral.ai, OCR) and OpenAI (platform.openai.com, videos), 2026-11-29.
    pages = passthrough.parse("POST", "/ocr", "application/json", b'{"model":"a","document":{}}', "openai")
    usage = {
        "pages": [],
        "model": "mistral-ocr-latest",
        "usage_info": {"pages_processed": 29, "doc_size_bytes": 3002783},
    }
    assert (await entry_of("mistral/mistral-ocr-latest", pages, usage)).charge_nusd == 29 * 4_000_000
    video = passthrough.parse(
        "POST", "/videos", "application/json", b'{"model":"a","prompt":"p","seconds":"8"}', "openai"
    )
    job = {"id": "video_1", "object": "video", "status": "queued", "seconds": "8", "size": "720x1280"}
    assert (await entry_of("sora-2", video, job)).charge_nusd == 8 * 100_000_000


async def responses_entry(model: str, answer: dict[str, Any], tools: list[dict[str, Any]]) -> LedgerEntry:
    body = json.dumps({"model": "a", "input": "draw", "tools": tools}).encode()
    whole = {"id": "r1", "object": "response", "status": "completed", "output": [], **answer}
    return await entry_of(model, responses.parse(body), whole)


USAGE = {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100}
PICTURE = {"type": "image_generation_call", "id": "ig_1", "status": "completed", "quality": "high", "size": "1024x1536"}


# OpenAI, the image tool (platform.openai.com, image generation, 2026-11-29): its model's tokens, which `tool_usage` has.
@pytest.mark.parametrize(
    "more, picture_usd",
    [
        ({}, 0.25),
        ({"tool_usage": {"image_gen": {"input_tokens": 100, "output_tokens": 1000, "total_tokens": 1100}}}, 0.0405),
    ],
    ids=["by its quality and size", "by its tokens"],
)
async def test_a_picture_within_an_answer_is_charged_beside_it(more, picture_usd):
    answer = {"output": [PICTURE], "usage": USAGE, **more}
    entry = await responses_entry("gpt-5", answer, [{"type": "image_generation"}])
    assert entry.charge_nusd == 2_250_000 + round(picture_usd * NUSD_PER_USD)
    assert entry.unpriced_parts == ""


async def test_each_search_file_search_and_container_of_a_response_has_its_fee():
    # OpenAI (platform.openai.com/docs/pricing, 2026-11-29): 10 and 2.50 USD per thousand calls, 0.03 USD per container.
    items = [
        {"type": "web_search_call", "action": {"type": "search"}},
        {"type": "web_search_call", "action": {"type": "open_page"}},
        {"type": "file_search_call"},
        {"type": "code_interpreter_call", "container_id": "c1"},
        {"type": "code_interpreter_call", "container_id": "c1"},
    ]
    tools: list[dict[str, Any]] = [
        {"type": "web_search"},
        {"type": "file_search"},
        {"type": "code_interpreter", "container": {"type": "auto"}},
    ]
    entry = await responses_entry("gpt-5", {"output": items, "usage": USAGE}, tools)
    assert entry.charge_nusd == 2_250_000 + 10_000_000 + 2_500_000 + 30_000_000
    assert entry.charge_nusd <= entry.hold_nusd


@pytest.mark.parametrize(
    "end", [b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n', b""],
    ids=["ended", "cut off"],
)  # fmt: skip
async def test_usage_before_the_text_of_a_stream_keeps_its_input_only(end):
    snapshot = parse(CONFIG.format(model="gpt-4o", dialect="openai"), "p.yaml", {})[0]
    opening = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    opening["usage"] = {"prompt_tokens": 1000, "completion_tokens": 1, "total_tokens": 1001}  # type: ignore[assignment]
    word = {"choices": [{"index": 0, "delta": {"content": "word "}}]}
    events = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in (opening, *[word] * 400)]
    book = Playbook(snapshot, [UpstreamAnswer(headers={"content-type": "text/event-stream"}, body=[*events, end])])
    body = {"model": "a", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    with contextlib.suppress(BrokenResponse):
        await book.pipeline.serve(chat.parse(json.dumps(body).encode()), CALLER, HeaderHints(), book.caller_stream)
    entry = book.ledger_entries[-1]
    assert (entry.input_tokens, entry.output_tokens, entry.usage_basis) == (1000, 500, "estimated")
