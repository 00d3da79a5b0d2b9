"""OpenAI Codex CLI with a custom provider in config.toml (Responses over POST)."""

from coding import BIN, Setting, drive

SCENARIO_OPTIONS = {"image": ["--image", "picture.png"], "structured": ["--output-schema", "schema.json"]}


def start(setting: Setting) -> tuple[list[str], dict[str, str]]:
    folder = setting.home / ".codex"
    folder.mkdir()
    (folder / "config.toml").write_text(f"""\
model = "{setting.model}"
model_provider = "penstock"
check_for_update_on_startup = false
[features]
plugins = false
apps = false
[analytics]
enabled = false
[model_providers.penstock]
name = "penstock"
base_url = "{setting.base_url}/v1"
env_key = "PENSTOCK_CLIENT_KEY"
wire_api = "responses"
""")
    command = [str(BIN / "codex"), "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    # The prompt comes first: an option with a list of values would consume it.
    return [*command, setting.prompt, *SCENARIO_OPTIONS.get(setting.scenario, [])], {
        "CODEX_HOME": str(folder),
        "PENSTOCK_CLIENT_KEY": setting.api_key,
    }


drive(start)
