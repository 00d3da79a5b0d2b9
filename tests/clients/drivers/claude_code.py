"""Claude Code in print mode."""

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
        # It refuses to run as root except in a declared sandbox.
        "IS_SANDBOX": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_AUTOUPDATER": "1",
    }


def read(out: str) -> str:
    report = json.loads(out)
    return json.dumps(report["structured_output"]) if "structured_output" in report else str(report["result"])


drive(start, read)
