"""One upstream dialect per file: request -> call, bytes -> usage, failure -> outcome. Pure.

To add a provider: a file like `openai_compatible.py`, a line here, recorded bytes and a test.
"""

from . import openai_compatible

PROVIDERS = {"openai": openai_compatible}
