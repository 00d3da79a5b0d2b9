"""Cline's command line (chat completions)."""

import subprocess

from coding import BIN, Setting, drive, quiet


def start(setting: Setting) -> tuple[list[str], dict[str, str]]:
    folder = str(setting.home / "cline")
    settings = setting.home / "cline.json"
    settings.write_text('{"telemetryOptOut": true, "autoUpdateEnabled": false}')
    env = {"CLINE_DIR": folder, "CLINE_GLOBAL_SETTINGS_PATH": str(settings), "CLINE_NO_AUTO_UPDATE": "1"}
    options = ["-p", "openai-compatible", "-k", setting.api_key, "-m", setting.model, "-b", f"{setting.base_url}/v1"]
    login = [str(BIN / "cline"), "auth", *options, "--data-dir", folder]
    subprocess.run(
        login,
        env={**quiet(setting), **env},
        cwd=setting.work,
        check=True,
        capture_output=True,
    )
    arguments = ["--data-dir", folder, "-P", "openai-compatible", "-m", setting.model, "--auto-approve", "true"]
    return [str(BIN / "cline"), *arguments, setting.prompt], env


drive(start)
