"""pydantic-ai, Messages."""

from anthropic import AsyncAnthropic
from common import API_KEY, BASE_URL, MODEL
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai_common import drive_pydantic_ai

client = AsyncAnthropic(base_url=BASE_URL, api_key=API_KEY, timeout=60)
drive_pydantic_ai(AnthropicModel(MODEL, provider=AnthropicProvider(anthropic_client=client)))
