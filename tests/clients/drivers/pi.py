"""pi, the coding agent (chat completions)."""

import json

from coding import BIN, Setting, drive


def start(setting: Setting) -> tuple[list[str], dict[str, str]]:
    folder = setting.home / "pi"
    folder.mkdir()
    provider = {
        "baseUrl": f"{setting.base_url}/v1",
        "api": "openai-completions",
        "apiKey": "PENSTOCK_CLIENT_KEY",
        "models": [{"id": setting.model, "contextWindow": 200_000, "maxTokens": 8000}],
    }
    (folder / "models.json").write_text(json.dumps({"providers": {"penstock": provider}}))
    command = [str(BIN / "pi"), "-p", "--provider", "penstock", "--model", setting.model, "--no-session"]
    return [*command, setting.prompt], {
        "PI_CODING_AGENT_DIR": str(folder),
        "PENSTOCK_CLIENT_KEY": setting.api_key,
        "PI_OFFLINE": "1",
        "PI_SKIP_VERSION_CHECK": "1",
        "PI_TELEMETRY": "0",
    }


drive(start)
