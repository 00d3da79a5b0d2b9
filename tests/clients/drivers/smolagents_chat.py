"""smolagents, chat completions; its agent must end with a call of its tool `final_answer`."""

from common import API_KEY, DIRECTIVE_AFTER, GREETING, MODEL, OPENAI_URL, TASK, Unmet, drive, weather
from smolagents import ChatMessage, LogLevel, OpenAIModel, ToolCallingAgent, tool

model = OpenAIModel(model_id=MODEL, api_base=OPENAI_URL, api_key=API_KEY)


def text() -> str:
    answer: ChatMessage = model.generate([{"role": "user", "content": [{"type": "text", "text": GREETING}]}])
    return str(answer.content)


def stream() -> str:
    pieces = model.generate_stream([{"role": "user", "content": [{"type": "text", "text": GREETING}]}])
    return "".join(piece.content or "" for piece in pieces)


@tool
def weather_tool(city: str) -> str:
    """Tell the weather of a city.

    Args:
        city: the city to look up
    """
    return f"{weather(city)} {DIRECTIVE_AFTER}"


def run(streams: bool, steps: int = 4) -> str:
    """The proof must be among what the tool observed: the answer is an argument that the model thinks up."""
    agent = ToolCallingAgent(
        tools=[weather_tool], model=model, max_steps=steps, verbosity_level=LogLevel.OFF, stream_outputs=streams
    )
    answer = agent.run(TASK)
    if agent.memory.steps and any(getattr(step, "error", None) for step in agent.memory.steps):
        raise Unmet(str([str(step.error) for step in agent.memory.steps if getattr(step, "error", None)]))
    seen = [str(getattr(step, "observations", "")) for step in agent.memory.steps]
    return f"{answer} | {seen}"


drive(
    {
        "text": text,
        "stream": stream,
        "tool": lambda: run(False),
        "stream_tool": lambda: run(True),
        # 20 is its own default.
        "loop": lambda: run(False, 20),
        "stream_loop": lambda: run(True, 20),
    }
)
