"""pydantic-ai over one of its models."""

import base64
from typing import Any

from common import EXTRACT, GREETING, LOOK, PNG, SYSTEM, TASK, City, city_of, drive, resume, weather
from pydantic_ai import Agent, BinaryContent, NativeOutput, capture_run_messages
from pydantic_ai.models import Model


def drive_pydantic_ai(model: Model) -> None:
    def agent(**more: Any) -> Agent[None, Any]:
        return Agent(model, instructions=SYSTEM, **more)

    async def stream_of(agent: Agent[None, Any], prompt: str) -> str:
        async with agent.run_stream(prompt) as result:
            return "".join([text async for text in result.stream_text(delta=True)])

    async def text() -> str:
        return str((await agent().run(GREETING)).output)

    async def stream() -> str:
        return await stream_of(agent(), GREETING)

    async def tool() -> str:
        return str((await agent(tools=[weather]).run(TASK)).output)

    async def stream_tool() -> str:
        return await stream_of(agent(tools=[weather]), TASK)

    async def loop() -> str:
        with capture_run_messages() as messages:
            try:
                return str((await agent(tools=[weather]).run(TASK)).output)
            except Exception as error:  # noqa: BLE001 - any exception of the framework
                resume(error)
        return str((await agent(tools=[weather]).run(message_history=messages)).output)

    async def structured() -> str:
        return city_of((await agent(output_type=NativeOutput(City)).run(EXTRACT)).output)

    async def structured_tool() -> str:
        return city_of((await agent(output_type=City).run(EXTRACT)).output)

    async def image() -> str:
        picture = BinaryContent(data=base64.b64decode(PNG), media_type="image/png")
        return str((await agent().run([LOOK, picture])).output)

    drive(
        {
            "text": text,
            "stream": stream,
            "tool": tool,
            "stream_tool": stream_tool,
            "loop": loop,
            "structured": structured,
            "structured_tool": structured_tool,
            "image": image,
        }
    )
