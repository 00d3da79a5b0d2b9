"""opencode over the Vercel SDK's @ai-sdk/openai (Responses)."""

from coding import Setting, drive
from opencode_common import start as start_opencode


def start(setting: Setting) -> tuple[list[str], dict[str, str]]:
    return start_opencode(setting, "@ai-sdk/openai")


drive(start)
