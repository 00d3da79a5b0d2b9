"""Instructor: schemas as forced tool calls, and as JSON schema, over the openai SDK."""

import instructor
from common import API_KEY, EXTRACT, MODEL, OPENAI_URL, City, city_of, drive
from openai import OpenAI

client = OpenAI(base_url=OPENAI_URL, api_key=API_KEY, timeout=60)


def extract(mode: instructor.Mode) -> str:
    patched = instructor.from_openai(client, mode=mode)
    city = patched.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": EXTRACT}], response_model=City, max_retries=0
    )
    return city_of(city)


def stream() -> str:
    patched = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
    partials = patched.chat.completions.create_partial(
        model=MODEL, messages=[{"role": "user", "content": EXTRACT}], response_model=City, max_retries=0
    )
    last = list(partials)[-1]
    return city_of(City(name=last.name, inhabitants=last.inhabitants))


drive(
    {
        "structured": lambda: extract(instructor.Mode.JSON_SCHEMA),
        "structured_tool": lambda: extract(instructor.Mode.TOOLS),
        "stream": stream,
        "refusal": lambda: extract(instructor.Mode.TOOLS),
    }
)
