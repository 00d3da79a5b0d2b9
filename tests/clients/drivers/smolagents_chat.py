"""smolagents, chat completions; its agent must end with a call of its tool `final_answer`."""

from common import API_KEY, DIRECTIVE_AFTER, GREETING, MODEL, OPENAI_URL, TASK, Unmet, drive, weather
from smolagents import ChatMessage, LogLevel, OpenAIModel, ToolCallingAgent, tool

model = OpenAIModel(model_id=MODEL, api_base=OPENAI_URL, api_key=API_KEY)


def text() -> str:
    answer: ChatMessage = model.generate([{"role": "user", "content": [{"type": "text", "text": GREETING}]}])
    return str(answer.content)


def stream() -> str:
    deltas = model.generate_stream([{"role": "user", "content": [{"type": "text", "text": GREETING}]}])
    return "".join(delta.content or "" for delta in deltas)


@tool
def weather_tool(city: str) -> str:
    """Get the weather of a city.

    Args:
        city: the city to look up
    """
    return f"{weather(city)} {DIRECTIVE_AFTER}"


def run(streams: bool, steps: int = 4) -> str:
    """The answer with the tool observations: the answer itself is an argument that the model invents."""
    agent = ToolCallingAgent(
        tools=[weather_tool], model=model, max_steps=steps, verbosity_level=LogLevel.OFF, stream_outputs=streams
    )
    answer = agent.run(TASK)
    if agent.memory.steps and any(getattr(step, "error", None) for step in agent.memory.steps):
        raise Unmet(str([str(step.error) for step in agent.memory.steps if getattr(step, "error", None)]))
    observations = [str(getattr(step, "observations", "")) for step in agent.memory.steps]
    return f"{answer} | {observations}"


drive(
    {
        "text": text,
        "stream": stream,
        "tool": lambda: run(False),
        "stream_tool": lambda: run(True),
        # 20 is smolagents' default.
        "loop": lambda: run(False, 20),
        "stream_loop": lambda: run(True, 20),
    }
)
