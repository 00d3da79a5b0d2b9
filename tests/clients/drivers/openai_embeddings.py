"""openai (Python), embeddings: it asks for base64 and decodes it itself."""

from common import API_KEY, GREETING, MODEL, OPENAI_URL, drive
from openai import OpenAI

client = OpenAI(base_url=OPENAI_URL, api_key=API_KEY, timeout=60)


def text() -> str:
    found = client.embeddings.create(model=MODEL, input=[GREETING, "two"]).data
    assert len(found) == 2 and all(isinstance(number, float) for number in found[0].embedding)
    return f"{len(found[0].embedding)} numbers"


drive({"text": text})
