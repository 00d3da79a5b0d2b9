"""AutoGen (AgentChat), chat completions."""

import base64
from io import BytesIO
from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.messages import ModelClientStreamingChunkEvent, MultiModalMessage, TextMessage
from autogen_core import Image
from autogen_ext.models.openai import OpenAIChatCompletionClient
from common import (
    API_KEY,
    EXTRACT,
    GREETING,
    LOOK,
    MODEL,
    OPENAI_URL,
    PNG,
    ROUNDS_MAX,
    SYSTEM,
    TASK,
    City,
    city_of,
    drive,
    weather,
)
from PIL import Image as Picture


def agent(**more: Any) -> AssistantAgent:
    client = OpenAIChatCompletionClient(
        model=MODEL,
        base_url=OPENAI_URL,
        api_key=API_KEY,
        timeout=60,
        model_info={
            "vision": True,
            "function_calling": True,
            "json_output": True,
            "structured_output": True,
            "family": "unknown",
        },
    )
    return AssistantAgent("agent", model_client=client, system_message=SYSTEM, reflect_on_tool_use=True, **more)


async def answer(agent: AssistantAgent, task: Any) -> Any:
    return (await agent.run(task=task)).messages[-1].content


async def streamed(agent: AssistantAgent, task: str) -> str:
    text, last = "", ""
    async for event in agent.run_stream(task=task):
        if isinstance(event, ModelClientStreamingChunkEvent):
            text += event.content
        if isinstance(event, TextMessage):
            last = event.content
    assert last in text, "the chunks do not contain the whole text"
    return last


async def text() -> str:
    return str(await answer(agent(), GREETING))


async def stream() -> str:
    return await streamed(agent(model_client_stream=True), GREETING)


async def tool() -> str:
    return str(await answer(agent(tools=[weather]), TASK))


async def stream_tool() -> str:
    return await streamed(agent(tools=[weather], model_client_stream=True), TASK)


async def loop() -> str:
    return str(await answer(agent(tools=[weather], max_tool_iterations=ROUNDS_MAX), TASK))


async def stream_loop() -> str:
    rounds = agent(tools=[weather], model_client_stream=True, max_tool_iterations=ROUNDS_MAX)
    return await streamed(rounds, TASK)


async def structured() -> str:
    return city_of(await answer(agent(output_content_type=City), EXTRACT))


async def image() -> str:
    picture = Image(Picture.open(BytesIO(base64.b64decode(PNG))))
    return str(await answer(agent(), MultiModalMessage(content=[LOOK, picture], source="user")))


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
