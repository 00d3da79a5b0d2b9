"""LangGraph with langchain-anthropic, Messages."""

from common import API_KEY, BASE_URL, MODEL
from langchain_anthropic import ChatAnthropic
from langgraph_common import drive_graph

drive_graph(ChatAnthropic(model_name=MODEL, base_url=BASE_URL, api_key=API_KEY, timeout=60, max_tokens=1000))
