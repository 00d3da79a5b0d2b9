"""What may be shown of a routing file: names of models, variables and paths; nothing that looks like a secret."""

import pytest

from gateway.config.redaction import HIDDEN, is_path, is_variable_name, looks_like_secret, without_secrets
from gateway.feeds import prices_litellm


def test_no_model_of_the_price_list_looks_like_a_secret():
    names = list(prices_litellm.load())
    assert len(names) > 1000
    assert [name for name in names if looks_like_secret(name)] == []


@pytest.mark.parametrize(
    "name",
    ["research-department", "gcp/europe-west1", "meta-llama/Llama-3.1-70B-Instruct", "team_of_2026", "2027-01-31",
     "http://127.0.0.1:21021/v1", "https://my-resource.openai.azure.com/openai/v1", "x-penstock-session", "rolling-24h",
     "Europe/Berlin", "GPU-8", "penstock-shadow"],
)  # fmt: skip
def test_a_name_does_not_look_like_a_secret(name):
    assert not looks_like_secret(name)


@pytest.mark.parametrize(
    "name", ["OPENAI_API_KEY", "KEY_3", "PENSTOCK_KEY_MY_AGENT", "AZURE_OPENAI_KEY_EU2", "GPT41_KEY"]
)
def test_the_name_of_a_variable_is_shown(name):
    assert is_variable_name(name)


@pytest.mark.parametrize("text", ["my_key", "A1B2C3D4", "sk_x", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "KEY-ONE", ""])
def test_what_may_be_a_secret_is_no_name_of_a_variable(text):
    assert not is_variable_name(text)


@pytest.mark.parametrize(
    "path", ["/run/secrets/openai_key", "./key", "../k/openai.txt", "~/x/y", "keys/openai", "key.txt"]
)
def test_a_path_is_shown(path):
    assert is_path(path)


@pytest.mark.parametrize(
    "text", ["hunter2", "wJalrXUtnFEMI/K7MDENG", "/9j/4AAQSkZJRgABAQEAYABg", "correct.horse.battery"]
)
def test_what_may_be_a_secret_is_no_path(text):
    assert not is_path(text)


def test_only_the_secret_within_a_message_is_hidden():
    message = "unknown provider 'sk-abcdef'; did you mean 'near'? See {env: NAME} and https://u:p@host/v1"
    assert (
        without_secrets(message) == f"unknown provider '{HIDDEN}'; did you mean 'near'? See {{env: NAME}} and {HIDDEN}"
    )
