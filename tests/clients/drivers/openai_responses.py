"""openai (Python), Responses; the tool scenarios send the whole history, `stored` only new items."""

import json
from typing import Any

from common import (
    API_KEY,
    EXTRACT,
    GREETING,
    LOOK,
    MODEL,
    OPENAI_URL,
    PNG,
    ROUNDS_MAX,
    TASK,
    WEATHER_SCHEMA,
    City,
    city_of,
    drive,
    weather,
    with_resume,
)
from openai import OpenAI

client = OpenAI(base_url=OPENAI_URL, api_key=API_KEY, timeout=60)
TOOLS: Any = [
    {
        "type": "function",
        "name": "weather",
        "description": "Weather of a city",
        "parameters": WEATHER_SCHEMA,
        "strict": True,
    }
]


def text() -> str:
    return client.responses.create(model=MODEL, input=GREETING).output_text


def stream() -> str:
    received, usage = "", None
    for event in client.responses.create(model=MODEL, input=GREETING, stream=True):
        if event.type == "response.output_text.delta":
            received += event.delta
        if event.type == "response.completed":
            usage = event.response.usage
    assert usage is not None and usage.total_tokens > 0, "no usage in the stream"
    return received


def tool() -> str:
    items: list[Any] = [{"role": "user", "content": TASK}]
    answer = client.responses.create(model=MODEL, input=items, tools=TOOLS, store=False)
    results = _results(answer)
    answer = client.responses.create(model=MODEL, input=[*items, *answer.output, *results], tools=TOOLS, store=False)
    return answer.output_text


def stream_tool() -> str:
    items: list[Any] = [{"role": "user", "content": TASK}]
    for _ in range(3):
        with client.responses.stream(model=MODEL, input=items, tools=TOOLS, store=False) as events:
            answer = events.get_final_response()
        if answer.output_text:
            return answer.output_text
        items += [*(_sent(item) for item in answer.output), *_results(answer)]
    return ""


def loop() -> str:
    items: list[Any] = [{"role": "user", "content": TASK}]
    for _ in range(ROUNDS_MAX):
        answer = with_resume(client.responses.create, model=MODEL, input=items, tools=TOOLS, store=False)
        if answer.output_text:
            return answer.output_text
        items += [*answer.output, *_results(answer)]
    return ""


def stream_loop() -> str:
    items: list[Any] = [{"role": "user", "content": TASK}]

    def ask() -> Any:
        with client.responses.stream(model=MODEL, input=items, tools=TOOLS, store=False) as events:
            return events.get_final_response()

    for _ in range(ROUNDS_MAX):
        answer = with_resume(ask)
        if answer.output_text:
            return answer.output_text
        items += [*(_sent(item) for item in answer.output), *_results(answer)]
    return ""


def stored_loop() -> str:
    request: dict[str, Any] = {"input": TASK}
    for _ in range(ROUNDS_MAX):
        answer = with_resume(client.responses.create, model=MODEL, tools=TOOLS, **request)
        if answer.output_text:
            return answer.output_text
        request = {"input": _results(answer), "previous_response_id": answer.id}
    return ""


def stored() -> str:
    answer = client.responses.create(model=MODEL, input=TASK, tools=TOOLS)
    answer = client.responses.create(model=MODEL, input=_results(answer), tools=TOOLS, previous_response_id=answer.id)
    return answer.output_text


def structured() -> str:
    return city_of(client.responses.parse(model=MODEL, input=EXTRACT, text_format=City).output_parsed)


def image() -> str:
    content: Any = [
        {"type": "input_text", "text": LOOK},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "low"},
    ]
    return client.responses.create(model=MODEL, input=[{"role": "user", "content": content}]).output_text


def _results(answer: Any) -> list[Any]:
    calls = [item for item in answer.output if item.type == "function_call"]
    assert calls, "no tool call"
    return [
        {"type": "function_call_output", "call_id": call.call_id, "output": weather(**json.loads(call.arguments))}
        for call in calls
    ]


def _sent(item: Any) -> Any:
    return {key: value for key, value in item.to_dict().items() if key != "parsed_arguments"}


drive(
    {
        "text": text,
        "stream": stream,
        "tool": tool,
        "stream_tool": stream_tool,
        "stored": stored,
        "loop": loop,
        "stream_loop": stream_loop,
        "stored_loop": stored_loop,
        "structured": structured,
        "image": image,
    }
)
