"""Microsoft's Agent Framework, chat completions."""

from agent_framework.openai import OpenAIChatCompletionClient
from agent_framework_common import drive_framework
from common import API_KEY, MODEL, OPENAI_URL

drive_framework(OpenAIChatCompletionClient(model=MODEL, base_url=OPENAI_URL, api_key=API_KEY))
