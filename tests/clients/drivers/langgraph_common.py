"""LangGraph's agent over one of LangChain's chat models."""

from typing import Any

from common import EXTRACT, GREETING, LOOK, PNG, SYSTEM, TASK, City, city_of, drive, weather
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel


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
        found = graph.invoke({"messages": [{"role": "user", "content": TASK}]}, {"recursion_limit": 8})
        return found["messages"][-1].text

    def stream_tool() -> str:
        said = ""
        asked = {"messages": [{"role": "user", "content": TASK}]}
        for chunk, _ in graph.stream(asked, {"recursion_limit": 8}, stream_mode="messages"):
            said += chunk.text if chunk.type == "AIMessageChunk" else ""
        return said

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
            "structured": structured,
            "structured_tool": structured_tool,
            "image": image,
        }
    )
