"""LangGraph with langchain-openai, Responses."""

from common import API_KEY, MODEL, OPENAI_URL
from langchain_openai import ChatOpenAI
from langgraph_common import drive_graph

drive_graph(ChatOpenAI(model=MODEL, base_url=OPENAI_URL, api_key=API_KEY, timeout=60, use_responses_api=True))
