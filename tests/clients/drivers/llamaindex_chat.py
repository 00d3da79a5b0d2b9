"""LlamaIndex, chat completions."""

import base64

from common import API_KEY, EXTRACT, GREETING, LOOK, MODEL, OPENAI_URL, PNG, SYSTEM, TASK, City, city_of, drive, weather
from llama_index.core.agent.workflow import AgentStream, FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai import OpenAI
from llama_index.llms.openai.utils import ALL_AVAILABLE_MODELS, CHAT_MODELS

# LlamaIndex refuses model names that are not in its table.
ALL_AVAILABLE_MODELS[MODEL] = CHAT_MODELS[MODEL] = 128_000
llm = OpenAI(model=MODEL, api_base=OPENAI_URL, api_key=API_KEY, timeout=60)


def text() -> str:
    return str(llm.chat([ChatMessage(role="user", content=GREETING)]).message.content)


def stream() -> str:
    return "".join(chunk.delta or "" for chunk in llm.stream_chat([ChatMessage(role="user", content=GREETING)]))


async def tool() -> str:
    agent = FunctionAgent(tools=[weather], llm=llm, system_prompt=SYSTEM, streaming=False)
    return str(await agent.run(TASK, max_iterations=4))


async def stream_tool() -> str:
    agent = FunctionAgent(tools=[weather], llm=llm, system_prompt=SYSTEM)
    run = agent.run(TASK, max_iterations=4)
    received = "".join([event.delta async for event in run.stream_events() if isinstance(event, AgentStream)])
    await run
    return received


async def loop() -> str:
    return str(await FunctionAgent(tools=[weather], llm=llm, system_prompt=SYSTEM, streaming=False).run(TASK))


async def stream_loop() -> str:
    return str(await FunctionAgent(tools=[weather], llm=llm, system_prompt=SYSTEM).run(TASK))


def structured() -> str:
    return city_of(llm.structured_predict(City, PromptTemplate("{prompt}"), prompt=EXTRACT))


def image() -> str:
    picture = ImageBlock(image=base64.b64decode(PNG), image_mimetype="image/png")
    return str(llm.chat([ChatMessage(role="user", blocks=[TextBlock(text=LOOK), picture])]).message.content)


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
