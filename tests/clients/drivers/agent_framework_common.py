"""Microsoft's Agent Framework over either of its OpenAI clients."""

import base64
from typing import Any

from agent_framework import Agent, Content, Message
from common import EXTRACT, GREETING, LOOK, PNG, SYSTEM, TASK, City, city_of, drive, weather


def drive_framework(client: Any) -> None:
    def agent(**more: Any) -> Any:
        return Agent(client=client, instructions=SYSTEM, **more)

    async def streamed(agent: Any, prompt: str) -> str:
        return "".join([update.text async for update in agent.run(prompt, stream=True) if update.text])

    async def text() -> str:
        return (await agent().run(GREETING)).text

    async def stream() -> str:
        return await streamed(agent(), GREETING)

    async def tool() -> str:
        return (await agent(tools=[weather]).run(TASK)).text

    async def stream_tool() -> str:
        return await streamed(agent(tools=[weather]), TASK)

    async def structured() -> str:
        return city_of((await agent().run(EXTRACT, options={"response_format": City})).value)

    async def image() -> str:
        picture = Content.from_data(base64.b64decode(PNG), media_type="image/png")
        return (await agent().run(Message(role="user", contents=[Content.from_text(LOOK), picture]))).text

    drive(
        {
            "text": text,
            "stream": stream,
            "tool": tool,
            "stream_tool": stream_tool,
            "structured": structured,
            "image": image,
        }
    )
