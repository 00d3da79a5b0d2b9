"""opencode with one provider in opencode.json, over the Vercel SDK's provider `package`."""

import json

from coding import BIN, Setting


def start(setting: Setting, package: str) -> tuple[list[str], dict[str, str]]:
    settings = {
        "$schema": "https://opencode.ai/config.json",
        "autoupdate": False,
        "share": "disabled",
        "model": f"penstock/{setting.model}",
        "small_model": f"penstock/{setting.model}",
        "enabled_providers": ["penstock"],
        "permission": "allow",
        "provider": {
            "penstock": {
                "npm": package,
                "name": "Penstock",
                "options": {"baseURL": f"{setting.base_url}/v1", "apiKey": setting.api_key},
                "models": {setting.model: {"name": setting.model, "tool_call": True}},
            }
        },
    }
    (setting.work / "opencode.json").write_text(json.dumps(settings))
    # One word per argument: opencode quotes an argument with spaces and escapes its quotes.
    return [str(BIN / "opencode"), "run", *setting.prompt.split(" ")], {
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
        "OPENCODE_DISABLE_SHARE": "1",
        "OPENCODE_PURE": "1",
        # It installs a plugin package regardless of its settings: the installation fails, as nothing listens there.
        "npm_config_registry": "http://127.0.0.1:9/",
    }
