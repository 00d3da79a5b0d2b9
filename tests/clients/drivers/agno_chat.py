"""Agno, chat completions."""

import base64
from typing import Any

from agno.agent import Agent
from agno.media import Image
from agno.models.openai import OpenAIChat
from common import (
    API_KEY,
    EXTRACT,
    GREETING,
    LOOK,
    MODEL,
    OPENAI_URL,
    PNG,
    SYSTEM,
    TASK,
    City,
    Unmet,
    city_of,
    drive,
    weather,
)


def agent(**more: Any) -> Agent:
    model = OpenAIChat(id=MODEL, base_url=OPENAI_URL, api_key=API_KEY, timeout=60)
    return Agent(model=model, instructions=SYSTEM, telemetry=False, **{"tool_call_limit": 3, **more})


def answer_text(answer: Any) -> str:
    # Agno returns failures as answers.
    if str(answer.status).endswith("ERROR") or str(answer.status).endswith("error"):
        raise Unmet(str(answer.content))
    return str(answer.content)


def streamed(agent: Agent, prompt: str) -> str:
    text = ""
    for event in agent.run(prompt, stream=True):
        if event.event == "RunError":
            raise Unmet(str(event.content))
        if event.event == "RunContent":
            text += event.content or ""
    return text


drive(
    {
        "text": lambda: answer_text(agent().run(GREETING)),
        "stream": lambda: streamed(agent(), GREETING),
        "tool": lambda: answer_text(agent(tools=[weather]).run(TASK)),
        "stream_tool": lambda: streamed(agent(tools=[weather]), TASK),
        "loop": lambda: answer_text(agent(tools=[weather], tool_call_limit=None).run(TASK)),
        "stream_loop": lambda: streamed(agent(tools=[weather], tool_call_limit=None), TASK),
        "structured": lambda: city_of(agent(output_schema=City).run(EXTRACT).content),
        "image": lambda: answer_text(agent().run(LOOK, images=[Image(content=base64.b64decode(PNG), format="png")])),
    }
)
