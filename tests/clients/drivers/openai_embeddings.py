"""openai (Python), embeddings: the SDK requests base64 and decodes it."""

from common import API_KEY, GREETING, MODEL, OPENAI_URL, drive
from openai import OpenAI

client = OpenAI(base_url=OPENAI_URL, api_key=API_KEY, timeout=60)


def text() -> str:
    embeddings = client.embeddings.create(model=MODEL, input=[GREETING, "two"]).data
    assert len(embeddings) == 2 and all(isinstance(number, float) for number in embeddings[0].embedding)
    return f"{len(embeddings[0].embedding)} numbers"


drive({"text": text})
