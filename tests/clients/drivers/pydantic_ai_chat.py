"""pydantic-ai, chat completions."""

from common import API_KEY, MODEL, OPENAI_URL
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai_common import drive_pydantic_ai

drive_pydantic_ai(OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=OPENAI_URL, api_key=API_KEY)))
