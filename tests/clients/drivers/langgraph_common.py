"""LangGraph's agent over one of LangChain's chat models."""

from typing import Any

from common import EXTRACT, GREETING, LOOK, PNG, ROUNDS_MAX, SYSTEM, TASK, City, city_of, drive, weather, with_resume
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langgraph.checkpoint.memory import InMemorySaver


def drive_graph(model: BaseChatModel) -> None:
    graph: Any = create_agent(model, tools=[weather], system_prompt=SYSTEM)

    def text() -> str:
        return model.invoke(GREETING).text

    def stream() -> str:
        chunks = list(model.stream(GREETING))
        usage = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
        assert usage, "no usage in the stream"
        return "".join(chunk.text for chunk in chunks)

    def tool() -> str:
        state = graph.invoke({"messages": [{"role": "user", "content": TASK}]}, {"recursion_limit": 8})
        return state["messages"][-1].text

    def stream_tool(steps: int = 8) -> str:
        received = ""
        graph_input = {"messages": [{"role": "user", "content": TASK}]}
        for chunk, _ in graph.stream(graph_input, {"recursion_limit": steps}, stream_mode="messages"):
            received += chunk.text if chunk.type == "AIMessageChunk" else ""
        return received

    def loop() -> str:
        checkpointed: Any = create_agent(model, tools=[weather], system_prompt=SYSTEM, checkpointer=InMemorySaver())
        settings = {"recursion_limit": 2 * ROUNDS_MAX, "configurable": {"thread_id": "one"}}
        # Without input it resumes from its checkpoint.
        inputs: list[Any] = [{"messages": [{"role": "user", "content": TASK}]}]
        state = with_resume(lambda: checkpointed.invoke(inputs.pop() if inputs else None, settings))
        return state["messages"][-1].text

    def structured() -> str:
        return city_of(model.with_structured_output(City).invoke(EXTRACT))

    def structured_tool() -> str:
        return city_of(model.with_structured_output(City, method="function_calling").invoke(EXTRACT))

    def image() -> str:
        content: Any = [
            {"type": "text", "text": LOOK},
            {"type": "image", "base64": PNG, "mime_type": "image/png"},
        ]
        return model.invoke([{"role": "user", "content": content}]).text

    drive(
        {
            "text": text,
            "stream": stream,
            "tool": tool,
            "stream_tool": stream_tool,
            "loop": loop,
            "stream_loop": lambda: stream_tool(2 * ROUNDS_MAX),
            "structured": structured,
            "structured_tool": structured_tool,
            "image": image,
        }
    )
