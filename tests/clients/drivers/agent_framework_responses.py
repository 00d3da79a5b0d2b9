"""Microsoft's Agent Framework, Responses: after a tool call it sends the result and `previous_response_id` only."""

from agent_framework.openai import OpenAIChatClient
from agent_framework_common import drive_framework
from common import API_KEY, MODEL, OPENAI_URL

drive_framework(OpenAIChatClient(model=MODEL, base_url=OPENAI_URL, api_key=API_KEY))
