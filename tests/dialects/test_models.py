"""GET /v1/models, in OpenAI's and Anthropic's shape."""

import json

import pytest

from gateway.dialects import models


def test_openai_s_list_names_every_route():
    response = models.model_list(["auto", "small"], anthropic=False)
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    assert json.loads(response.body) == {
        "object": "list",
        "data": [
            {"id": "auto", "object": "model", "created": 0, "owned_by": "penstock"},
            {"id": "small", "object": "model", "created": 0, "owned_by": "penstock"},
        ],
    }


@pytest.mark.parametrize(
    "names, first, last", [(["auto", "small"], "auto", "small"), (["auto"], "auto", "auto"), ([], None, None)]
)
def test_anthropic_s_list_is_one_page(names, first, last):
    document = json.loads(models.model_list(names, anthropic=True).body)
    assert [entry["id"] for entry in document["data"]] == names
    assert (document["first_id"], document["last_id"], document["has_more"]) == (first, last, False)


@pytest.mark.parametrize("anthropic", [False, True])
def test_an_entry_is_that_of_the_list(anthropic):
    entry = json.loads(models.model_entry("auto", anthropic=anthropic).body)
    assert json.loads(models.model_list(["auto"], anthropic=anthropic).body)["data"] == [entry]
    assert ("display_name" in entry) is anthropic
