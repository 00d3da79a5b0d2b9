"""Qwen Code (chat completions)."""

import json

from coding import BIN, Setting, drive


def start(setting: Setting) -> tuple[list[str], dict[str, str]]:
    folder = setting.home / ".qwen"
    folder.mkdir()
    settings = {
        "privacy": {"usageStatisticsEnabled": False},
        "telemetry": {"enabled": False},
        "general": {"disableAutoUpdate": True, "disableUpdateNag": True, "enableAutoUpdate": False},
        "security": {"auth": {"selectedType": "openai"}},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    return [str(BIN / "qwen"), "--yolo", "--auth-type", "openai", "-p", setting.prompt], {
        "OPENAI_BASE_URL": f"{setting.base_url}/v1",
        "OPENAI_API_KEY": setting.api_key,
        "OPENAI_MODEL": setting.model,
        # It would send loopback requests to the proxy too.
        "HTTPS_PROXY": "",
    }


drive(start)
