"""openai (Python), chat completions."""

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
        "function": {
            "name": "weather",
            "description": "Weather of a city",
            "parameters": WEATHER_SCHEMA,
            "strict": True,
        },
    }
]


def text() -> str:
    return (
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": GREETING}])
        .choices[0]
        .message.content
        or ""
    )


def stream() -> str:
    events = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": GREETING}],
        stream=True,
        stream_options={"include_usage": True},
    )
    received, usage = "", None
    for event in events:
        usage = event.usage or usage
        received += "".join(choice.delta.content or "" for choice in event.choices)
    assert usage is not None and usage.total_tokens > 0, "no usage in the stream"
    return received


def tool() -> str:
    messages: list[Any] = [{"role": "user", "content": TASK}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS).choices[0].message
    assert answer.tool_calls, "no tool call"
    messages.append(answer)
    messages += [_run(call) for call in answer.tool_calls]
    return client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS).choices[0].message.content or ""


def stream_tool() -> str:
    messages: list[Any] = [{"role": "user", "content": TASK}]
    for _ in range(3):
        with client.chat.completions.stream(model=MODEL, messages=messages, tools=TOOLS) as events:
            answer = events.get_final_completion().choices[0].message
        if not answer.tool_calls:
            return answer.content or ""
        messages.append(answer.to_dict(exclude_unset=True))
        messages[-1].pop("parsed", None)
        messages += [_run(call) for call in answer.tool_calls]
    return ""


def loop() -> str:
    messages: list[Any] = [{"role": "user", "content": TASK}]
    for _ in range(ROUNDS_MAX):
        answer = with_resume(client.chat.completions.create, model=MODEL, messages=messages, tools=TOOLS)
        message = answer.choices[0].message
        if not message.tool_calls:
            return message.content or ""
        messages += [message, *map(_run, message.tool_calls)]
    return ""


def stream_loop() -> str:
    messages: list[Any] = [{"role": "user", "content": TASK}]

    def ask() -> Any:
        with client.chat.completions.stream(model=MODEL, messages=messages, tools=TOOLS) as events:
            return events.get_final_completion()

    for _ in range(ROUNDS_MAX):
        message = with_resume(ask).choices[0].message
        if not message.tool_calls:
            return message.content or ""
        messages.append(message.to_dict(exclude_unset=True))
        messages[-1].pop("parsed", None)
        messages += map(_run, message.tool_calls)
    return ""


def structured() -> str:
    answer = client.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": EXTRACT}], response_format=City
    )
    return city_of(answer.choices[0].message.parsed)


def image() -> str:
    content: Any = [
        {"type": "text", "text": LOOK},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
    ]
    return (
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}])
        .choices[0]
        .message.content
        or ""
    )


def _run(call: Any) -> Any:
    return {"role": "tool", "tool_call_id": call.id, "content": weather(**json.loads(call.function.arguments))}


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
    }
)
