"""anthropic (Python), Messages."""

from typing import Any

from anthropic import Anthropic
from common import (
    API_KEY,
    BASE_URL,
    EXTRACT,
    GREETING,
    LOOK,
    MODEL,
    PNG,
    ROUNDS_MAX,
    SYSTEM,
    TASK,
    WEATHER_SCHEMA,
    City,
    city_of,
    drive,
    weather,
    with_resume,
)

client = Anthropic(base_url=BASE_URL, api_key=API_KEY, timeout=60)
TOOLS: Any = [{"name": "weather", "description": "Weather of a city", "input_schema": WEATHER_SCHEMA}]
COMMON: Any = {"model": MODEL, "max_tokens": 1000, "system": SYSTEM}


def text() -> str:
    return _answer_text(client.messages.create(**COMMON, messages=[{"role": "user", "content": GREETING}]))


def stream() -> str:
    with client.messages.stream(**COMMON, messages=[{"role": "user", "content": GREETING}]) as events:
        text_received = "".join(events.text_stream)
        usage = events.get_final_message().usage
    assert usage.output_tokens > 0 and usage.input_tokens > 0, f"no usage in the stream: {usage}"
    return text_received


def tool() -> str:
    messages: list[Any] = [{"role": "user", "content": TASK}]
    answer = client.messages.create(**COMMON, messages=messages, tools=TOOLS)
    assert answer.stop_reason == "tool_use", answer.stop_reason
    messages += [{"role": "assistant", "content": answer.content}, _results(answer)]
    return _answer_text(client.messages.create(**COMMON, messages=messages, tools=TOOLS))


def stream_tool() -> str:
    messages: list[Any] = [{"role": "user", "content": TASK}]
    for _ in range(3):
        with client.messages.stream(**COMMON, messages=messages, tools=TOOLS) as events:
            answer = events.get_final_message()
        if answer.stop_reason != "tool_use":
            return _answer_text(answer)
        messages += [{"role": "assistant", "content": answer.content}, _results(answer)]
    return ""


def loop() -> str:
    return _looped(lambda messages: client.messages.create(**COMMON, messages=messages, tools=TOOLS))


def stream_loop() -> str:
    def ask(messages: Any) -> Any:
        with client.messages.stream(**COMMON, messages=messages, tools=TOOLS) as events:
            return events.get_final_message()

    return _looped(ask)


def _looped(ask: Any) -> str:
    messages: list[Any] = [{"role": "user", "content": TASK}]
    for _ in range(ROUNDS_MAX):
        answer = with_resume(ask, messages)
        if answer.stop_reason != "tool_use":
            return _answer_text(answer)
        messages += [{"role": "assistant", "content": answer.content}, _results(answer)]
    return ""


def structured() -> str:
    answer = client.messages.parse(**COMMON, messages=[{"role": "user", "content": EXTRACT}], output_format=City)
    return city_of(answer.parsed_output)


def image() -> str:
    content: Any = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        {"type": "text", "text": LOOK},
    ]
    return _answer_text(client.messages.create(**COMMON, messages=[{"role": "user", "content": content}]))


def count() -> str:
    counted = client.messages.count_tokens(model=MODEL, system=SYSTEM, messages=[{"role": "user", "content": GREETING}])
    return f"{counted.input_tokens} tokens"


def _answer_text(answer: Any) -> str:
    return "".join(block.text for block in answer.content if block.type == "text")


def _results(answer: Any) -> Any:
    return {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": block.id, "content": weather(**block.input)}
            for block in answer.content
            if block.type == "tool_use"
        ],
    }


drive(
    {
        "text": text,
        "stream": stream,
        "tool": tool,
        "stream_tool": stream_tool,
        "loop": loop,
        "stream_loop": stream_loop,
        "structured": structured,
        "image": image,
        "count": count,
    }
)
