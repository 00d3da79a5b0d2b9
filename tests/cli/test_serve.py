"""`penstock serve`: what it imports."""

import subprocess
import sys


def test_serving_imports_none_of_the_heavy_packages():
    code = "import sys, gateway.cli.serve; print([n for n in ('litellm','codecarbon','tiktoken','openai','pandas','numpy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
