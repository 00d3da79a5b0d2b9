"""CrewAI with its own OpenAI client, chat completions."""

from typing import Any

from common import API_KEY, EXTRACT, GREETING, MODEL, OPENAI_URL, TASK, City, city_of, drive, weather
from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool


def crew(prompt: str, *, stream: bool = False, tools: Any = (), rounds: int = 3, **more: Any) -> Any:
    llm = LLM(model=f"openai/{MODEL}", base_url=OPENAI_URL, api_key=API_KEY, timeout=60, stream=stream)
    agent = Agent(
        role="helper", goal="help", backstory="helpful", llm=llm, tools=list(tools), max_iter=rounds, verbose=False
    )
    task = Task(description=prompt, expected_output="an answer", agent=agent, **more)
    return Crew(agents=[agent], tasks=[task], verbose=False, tracing=False).kickoff()


drive(
    {
        "text": lambda: crew(GREETING).raw,
        "stream": lambda: crew(GREETING, stream=True).raw,
        "tool": lambda: crew(TASK, tools=[tool("weather")(weather)]).raw,
        "stream_tool": lambda: crew(TASK, tools=[tool("weather")(weather)], stream=True).raw,
        # 25 is CrewAI's default.
        "loop": lambda: crew(TASK, tools=[tool("weather")(weather)], rounds=25).raw,
        "stream_loop": lambda: crew(TASK, tools=[tool("weather")(weather)], stream=True, rounds=25).raw,
        "structured": lambda: city_of(crew(EXTRACT, output_pydantic=City).pydantic),
    }
)
