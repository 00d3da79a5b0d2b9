"""Claude Code, printing its answer and leaving."""

import json

from coding import BIN, SCHEMA, Setting, drive


def start(setting: Setting) -> tuple[list[str], dict[str, str]]:
    arguments = [
        "-p",
        setting.prompt,
        "--output-format",
        "json",
        "--model",
        setting.model,
        "--dangerously-skip-permissions",
    ]
    if setting.scenario == "structured":
        arguments += ["--json-schema", json.dumps(SCHEMA)]
    return [str(BIN / "claude"), *arguments], {
        "ANTHROPIC_BASE_URL": setting.base_url,
        "ANTHROPIC_API_KEY": setting.api_key,
        "ANTHROPIC_SMALL_FAST_MODEL": setting.model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": setting.model,
        # Its own permission check refuses root unless the machine says that it is a sandbox.
        "IS_SANDBOX": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_AUTOUPDATER": "1",
    }


def read(out: str) -> str:
    found = json.loads(out)
    return json.dumps(found["structured_output"]) if "structured_output" in found else str(found["result"])


drive(start, read)
