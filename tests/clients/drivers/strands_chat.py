"""Strands Agents, chat completions; it always streams."""

import base64
from typing import Any

from common import API_KEY, EXTRACT, GREETING, LOOK, MODEL, OPENAI_URL, PNG, SYSTEM, TASK, City, city_of, drive, weather
from strands import Agent, tool
from strands.models.openai import OpenAIModel


def agent(**more: Any) -> Agent:
    model = OpenAIModel(client_args={"base_url": OPENAI_URL, "api_key": API_KEY, "timeout": 60}, model_id=MODEL)
    return Agent(model=model, system_prompt=SYSTEM, callback_handler=None, **more)


def image() -> str:
    picture = {"image": {"format": "png", "source": {"bytes": base64.b64decode(PNG)}}}
    return str(agent()([{"text": LOOK}, picture]))


drive(
    {
        "stream": lambda: str(agent()(GREETING)),
        "refusal": lambda: str(agent()(GREETING)),
        "stream_tool": lambda: str(agent(tools=[tool(weather)])(TASK)),
        "structured_tool": lambda: city_of(agent()(EXTRACT, structured_output_model=City).structured_output),
        "image": image,
    }
)
