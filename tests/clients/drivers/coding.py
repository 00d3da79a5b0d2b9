"""Shared by the coding agents' drivers: temporary home, traffic to BASE_URL only, report as one JSON line."""

import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

BIN = Path(__file__).resolve().parent.parent / "node_modules" / ".bin"
# Limit for a client that retries forever; the runner's own limit is higher.
SECONDS_MAX = float(os.environ.get("SECONDS_MAX", "120"))
# Text that the answer must contain: computed by the agent's shell, so it cannot come from the prompt.
PROOF = "tool-output-42"
COMMAND = "echo tool-output-$((40+2))"
PROMPTS = {
    "tool": f"Run the shell command `{COMMAND}` and tell me what it printed.",
    "loop": f"Run the shell command `{COMMAND}` and tell me what it printed.",
    "read_image": "Read the file picture.png and tell me what it shows.",
    "image": "What is in this picture?",
    "structured": "Extract the city: Lisbon has 545796 inhabitants.",
}
GREETING = "Say hello."
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "inhabitants": {"type": "integer"}},
    "required": ["name", "inhabitants"],
    "additionalProperties": False,
}
# A red square, 16 by 16 pixels.
PNG = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAFklEQVR42mO4ICBAEmIY1TCqYfhqAABYoPABnlzdOQAAAABJRU5ErkJggg=="


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The settings of one run."""

    base_url: str
    api_key: str
    model: str
    scenario: str
    prompt: str
    home: Path
    work: Path


def drive(
    start: Callable[[Setting], tuple[list[str], Mapping[str, str]]], read: Callable[[str], str] = str.strip
) -> None:
    """Run one agent: `start` writes its settings and returns command and environment; `read` extracts its answer."""
    scenario = os.environ["SCENARIO"]
    with tempfile.TemporaryDirectory(prefix="client-", ignore_cleanup_errors=True) as folder:
        setting = Setting(
            base_url=os.environ["BASE_URL"].rstrip("/"),
            api_key=os.environ["API_KEY"],
            model=os.environ["MODEL"],
            scenario=scenario,
            prompt=f"{PROMPTS.get(scenario, GREETING)} {os.environ.get('DIRECTIVE', '')}".strip(),
            home=Path(folder) / "home",
            work=Path(folder) / "work",
        )
        setting.home.mkdir()
        setting.work.mkdir()
        (setting.work / "picture.png").write_bytes(base64.b64decode(PNG))
        (setting.work / "schema.json").write_text(json.dumps(SCHEMA))
        subprocess.run(["git", "init", "-q"], cwd=setting.work, check=True)
        command, env = start(setting)
        out, err, status = _execute(command, {**quiet(setting), **env}, setting.work)
        text = read(out) if out.strip() else ""
        _report(scenario, text, out, err, status)


def quiet(setting: Setting) -> dict[str, str]:
    """An environment with loopback and temporary folders only, without the user's settings and keys."""
    home = str(setting.home)
    return {
        "PATH": os.environ["PATH"],
        "HOME": home,
        "XDG_CONFIG_HOME": f"{home}/.config",
        "XDG_DATA_HOME": f"{home}/.local/share",
        "XDG_STATE_HOME": f"{home}/.local/state",
        "XDG_CACHE_HOME": f"{home}/.cache",
        "TERM": "dumb",
        "NO_COLOR": "1",
        "CI": "1",
        "LANG": "C.UTF-8",
        # Connections that ignore the other switches fail: nothing listens on this port.
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1,localhost",
        "DO_NOT_TRACK": "1",
        "OTEL_SDK_DISABLED": "true",
    }


def _execute(arguments: list[str], env: Mapping[str, str], cwd: Path) -> tuple[str, str, int | str]:
    with subprocess.Popen(
        arguments,
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=SECONDS_MAX)
            return out, err, process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            out, err = process.communicate()
            return out, err, f"ended after {SECONDS_MAX:g} s"


def _report(scenario: str, text: str, out: str, err: str, status: int | str) -> None:
    output = f"{out}\n{err}"
    if scenario == "refusal":
        ok = not isinstance(status, str) and os.environ.get("REFUSAL", "budget").lower() in output.lower()
        detail = "" if ok else f"status {status}, message not shown"
    else:
        expected = {"tool": PROOF, "structured": "inhabitants"}.get(scenario) or os.environ.get("EXPECTED", "")
        ok = expected in text and bool(text) and status == 0
        detail = "" if ok else f"status {status}, no {expected!r} in the answer"
    line = {"ok": ok, "text": text[-2000:], "detail": detail, "status": status}
    if not ok or os.environ.get("VERBOSE"):
        line |= {"out": out[-3000:], "err": err[-3000:]}
    print(json.dumps(line))
    sys.exit(0)
