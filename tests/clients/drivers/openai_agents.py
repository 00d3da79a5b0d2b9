"""openai-agents (Python), Responses."""

from agents import OpenAIResponsesModel
from openai_agents_common import drive_agents

drive_agents(OpenAIResponsesModel)
