"""The simulated provider as a command, as the demo starts it."""

import json
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from gateway.simulator.provider import SimulatedModel


def test_the_command_prints_each_models_base_url_and_takes_options():
    command = [sys.executable, "-m", "gateway.simulator.provider", "--model=a:0:0", "--model=b:0:0"]
    with subprocess.Popen(
        [*command, "--dialects=chat", "--strict", "--key=k"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            name, base = process.stdout.readline().split()
            assert [name, process.stdout.readline().split()[0]] == ["a", "b"]
            body = json.dumps({"model": "a", "messages": [{"role": "user", "content": "hi"}], "top_k": 1}).encode()
            for path, headers, status in (
                ("/responses", {}, 404),
                ("/chat/completions", {}, 401),
                ("/chat/completions", {"Authorization": "Bearer k"}, 400),
            ):
                with pytest.raises(urllib.error.HTTPError) as error:
                    urllib.request.urlopen(urllib.request.Request(f"{base}{path}", data=body, headers=headers))
                error.value.close()
                assert error.value.status == status
        finally:
            process.kill()


def test_an_unknown_dialect_is_named():
    with pytest.raises(ValueError, match="unknown dialects: chatt"):
        SimulatedModel(model="m", dialects=frozenset({"chatt"}))
