"""openai-agents (Python), chat completions."""

from agents import OpenAIChatCompletionsModel
from openai_agents_common import drive_agents

drive_agents(OpenAIChatCompletionsModel)
