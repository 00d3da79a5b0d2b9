"""litellm as a client, chat completions."""

import json
from typing import Any

import litellm
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

TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "description": "Weather", "parameters": WEATHER_SCHEMA}}
]


def ask(messages: Any, **more: Any) -> Any:
    return litellm.completion(model=f"openai/{MODEL}", api_base=OPENAI_URL, api_key=API_KEY, messages=messages, **more)


def user(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


def stream() -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in ask(user(GREETING), stream=True) if chunk.choices)


def rounds(streams: bool, times: int = 3) -> str:
    messages = user(TASK)
    for _ in range(times):
        answer = with_resume(ask, messages, tools=TOOLS, stream=streams)
        if streams:
            answer = litellm.stream_chunk_builder(list(answer), messages=messages)
        message = answer.choices[0].message
        if not message.tool_calls:
            return str(message.content)
        # litellm adds a field of its own, `provider_specific_fields`, which OpenAI refuses.
        messages.append(message.model_dump(exclude={"provider_specific_fields"}, exclude_none=True))
        messages += [
            {"role": "tool", "tool_call_id": call.id, "content": weather(**json.loads(call.function.arguments))}
            for call in message.tool_calls
        ]
    return ""


def image() -> str:
    content = [
        {"type": "text", "text": LOOK},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
    ]
    return str(ask(user(content)).choices[0].message.content)


drive(
    {
        "text": lambda: str(ask(user(GREETING)).choices[0].message.content),
        "stream": stream,
        "tool": lambda: rounds(False),
        "stream_tool": lambda: rounds(True),
        "loop": lambda: rounds(False, ROUNDS_MAX),
        "stream_loop": lambda: rounds(True, ROUNDS_MAX),
        "structured": lambda: city_of(
            City.model_validate_json(ask(user(EXTRACT), response_format=City).choices[0].message.content)
        ),
        "image": image,
    }
)
