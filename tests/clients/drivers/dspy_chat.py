"""DSPy (its own client, chat completions): signatures as text, no tools of the API."""

import dspy
from common import API_KEY, EXTRACT, GREETING, MODEL, OPENAI_URL, City, city_of, drive

lm = dspy.LM(f"openai/{MODEL}", api_base=OPENAI_URL, api_key=API_KEY, cache=False)
dspy.configure(lm=lm)


class Extract(dspy.Signature):
    """Extract the city."""

    sentence: str = dspy.InputField()
    city: City = dspy.OutputField()


def structured() -> str:
    with dspy.context(adapter=dspy.JSONAdapter()):
        return city_of(dspy.Predict(Extract)(sentence=EXTRACT).city)


drive(
    {
        "text": lambda: lm(GREETING)[0],
        "structured": structured,
    }
)
