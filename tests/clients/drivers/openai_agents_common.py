"""openai-agents over either of its two models."""

from typing import Any

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from common import API_KEY, EXTRACT, GREETING, LOOK, MODEL, OPENAI_URL, PNG, SYSTEM, TASK, City, city_of, drive, weather
from openai import AsyncOpenAI


def drive_agents(kind: type[OpenAIChatCompletionsModel] | type[OpenAIResponsesModel]) -> None:
    set_tracing_disabled(True)
    model = kind(model=MODEL, openai_client=AsyncOpenAI(base_url=OPENAI_URL, api_key=API_KEY, timeout=60))

    def agent(**more: Any) -> Agent[None]:
        return Agent(
            name="agent", instructions=SYSTEM, model=model, model_settings=ModelSettings(include_usage=True), **more
        )

    async def stream_of(agent: Agent[None], prompt: str, **more: Any) -> str:
        result = Runner.run_streamed(agent, prompt, **{"max_turns": 4, **more})
        async for _ in result.stream_events():
            pass
        return str(result.final_output)

    async def text() -> str:
        return str((await Runner.run(agent(), GREETING)).final_output)

    async def stream() -> str:
        return await stream_of(agent(), GREETING)

    async def tool() -> str:
        return str((await Runner.run(agent(tools=[function_tool(weather)]), TASK, max_turns=4)).final_output)

    async def stream_tool() -> str:
        return await stream_of(agent(tools=[function_tool(weather)]), TASK)

    # 10 is the framework's default.
    async def loop() -> str:
        return str((await Runner.run(agent(tools=[function_tool(weather)]), TASK)).final_output)

    async def stream_loop() -> str:
        return await stream_of(agent(tools=[function_tool(weather)]), TASK, max_turns=10)

    async def structured() -> str:
        return city_of((await Runner.run(agent(output_type=City), EXTRACT)).final_output)

    async def image() -> str:
        content: Any = [
            {"type": "input_text", "text": LOOK},
            {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "low"},
        ]
        return str((await Runner.run(agent(), [{"role": "user", "content": content}])).final_output)

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
