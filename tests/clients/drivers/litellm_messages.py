"""litellm as a client, Messages (its provider `anthropic`)."""

import litellm
from common import API_KEY, BASE_URL, GREETING, MODEL, drive


def ask(**more: object) -> object:
    messages = [{"role": "user", "content": GREETING}]
    return litellm.completion(model=f"anthropic/{MODEL}", api_base=BASE_URL, api_key=API_KEY, messages=messages, **more)


drive(
    {
        "text": lambda: str(ask().choices[0].message.content),
        "stream": lambda: "".join(chunk.choices[0].delta.content or "" for chunk in ask(stream=True)),
    }
)
