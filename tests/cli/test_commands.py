"""The commands as a user runs them: separate processes, and a real kill."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter

import pytest

from gateway.cli.demo import _summary
from gateway.simulator.provider import SimulatedModel, SimulatedProvider
from gateway.simulator.session_replay import ReplayCounts
from gateway.stores.journal import Journal
from tests.cli.processes import ENVIRONMENT, ROOT, Serving, free_port, penstock, query
from tests.gateways import until
from tests.snapshots import BASE_CONFIG, ENV


def test_check_accepts_the_example_and_prints_a_summary():
    done = penstock("check", "config/routing.yaml")
    assert done.returncode == 0, done.stderr
    assert "3 routes, 2 deployments, 3 budgets" in done.stdout


def test_check_prints_every_problem_and_exits_with_1(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        BASE_CONFIG.format(more="", small="", near="x", far="http://b/v1").replace("tier: frontier", "tier: top")
    )
    done = penstock("check", str(path))
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 2
    assert done.stderr.startswith(f"{path}:")


def test_invalid_usage_exits_with_2():
    assert penstock("chek").returncode == 2
    assert penstock().returncode == 2
    assert penstock("export", "--by", "nonsense", PENSTOCK_DATA="nowhere").returncode == 1
    text = penstock("--help").stdout
    assert "Run the gateway" in text
    assert "Exit status:" in text


def test_a_closed_pipe_ends_a_command_quietly():
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli.main", "check", "config/routing.yaml"],
        env=ENVIRONMENT, stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=60, cwd=ROOT, check=False,
    )  # fmt: skip
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, "")


def test_serve_prints_why_it_cannot_start(tmp_path):
    done = penstock("serve", "config/routing.yaml", PENSTOCK_DATA=str(tmp_path))
    assert done.returncode == 1
    assert "PENSTOCK_KEY_MY_AGENT is not set" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_command_prints_a_secret_that_is_written_into_the_file(tmp_path):
    path, secret = tmp_path / "r.yaml", "sk-proj-Ab3dEf6h1Jk2Mn9PqRsT"
    text = BASE_CONFIG.format(more="", small="", near="http://a/v1", far="http://b/v1")
    for wrong in (f"{{env: {secret}}}", secret, f"{{file: {secret}}}"):
        path.write_text(text.replace("{env: PROVIDER_KEY}", wrong))
        for command in (["check"], ["check", "--secrets"], ["serve"]):
            done = penstock(*command, str(path), PENSTOCK_DATA=str(tmp_path / "data"), **ENV)
            assert done.returncode == 1 and f"{path}:8:" in done.stderr, done.stderr
            assert secret not in done.stdout + done.stderr


def test_check_reports_short_secrets_and_serve_starts_with_them(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(BASE_CONFIG.format(more="", small="", near="http://127.0.0.1:1/v1", far="http://127.0.0.1:1/v1"))
    done = penstock("check", str(path), PENSTOCK_ADMIN_TOKEN="hunter2", **ENV)
    assert done.returncode == 1 and done.stderr.count("secret has fewer than 16 characters") == 2
    assert done.stderr.startswith(f"{path}:5:38: ") and f"{path}:6:35: " in done.stderr
    long = {**ENV, "KEY_ONE": "1" * 16, "KEY_TWO": "2" * 16}
    done = penstock("check", str(path), PENSTOCK_ADMIN_TOKEN="hunter2", **long)
    assert done.returncode == 0
    assert "note: environment: PENSTOCK_ADMIN_TOKEN has fewer than 16 characters" in done.stdout
    serving = Serving(path, tmp_path / "data", free_port())
    log = serving.end(signal.SIGTERM)
    assert log.count("config_note") == 2 and f"{path}:5:38: secret has fewer than 16 characters" in log
    assert not any(secret in log for secret in ENV.values())


def test_serve_names_the_port_or_folder_that_is_in_use(tmp_path):
    config = tmp_path / "r.yaml"
    config.write_text(BASE_CONFIG.format(more="", small="", near="http://127.0.0.1:1/v1", far="http://127.0.0.1:1/v1"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        env = ENV | {"PENSTOCK_DATA": str(tmp_path / "data"), "PENSTOCK_PORT": str(port)}
        done = penstock("serve", str(config), **env)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (
            1,
            f"penstock: cannot start: port {port} is in use; set PENSTOCK_PORT",
        )
        done = penstock("serve", str(config), **env | {"PENSTOCK_PORT": "0", "PENSTOCK_ADMIN_PORT": str(port)})
        assert done.stderr.splitlines()[-1].endswith(f"port {port} is in use; set PENSTOCK_ADMIN_PORT")
    journal = Journal(tmp_path / "data" / "journal")
    journal.acquire_lock()
    done = penstock("serve", str(config), **env)
    assert done.stderr.splitlines()[-1] == (
        f"penstock: cannot start: data folder {tmp_path / 'data'} is in use by another gateway"
    )
    journal.close()


async def test_a_kill_loses_no_settled_entry_and_leaves_no_hold_open(tmp_path):
    provider = SimulatedProvider(SimulatedModel(model="sim-small"))
    config, data, port = tmp_path / "r.yaml", tmp_path / "data", free_port()
    budget = "budgets: {calls: {limit: {calls: 12}, window: total}}"
    config.write_text(
        BASE_CONFIG.format(more=budget, small="", near=await provider.start(), far="http://127.0.0.1:1/v1")
    )
    serving = await asyncio.to_thread(Serving, config, data, port)
    for _ in range(9):
        await asyncio.to_thread(serving.post)
    pending = asyncio.ensure_future(asyncio.to_thread(_ignoring, serving.post, sim={"fault": "hang"}))
    await until(lambda: len(provider.request_bodies) == 10)
    serving.process.kill()
    await asyncio.to_thread(serving.process.communicate)
    await pending
    restarted = await asyncio.to_thread(Serving, config, data, port)
    rows = query(data, "SELECT outcome, charge_nusd, hold_nusd FROM entries")
    assert sorted(outcome for outcome, _, _ in rows) == ["completed"] * 9 + ["expired"]
    assert all(charge == hold for outcome, charge, hold in rows if outcome == "expired")
    # Ten of twelve calls are booked, so that the budget admits two more and refuses the third.
    await asyncio.to_thread(restarted.post)
    await asyncio.to_thread(restarted.post)
    with pytest.raises(urllib.error.HTTPError) as refused:
        await asyncio.to_thread(restarted.post)
    assert json.loads(refused.value.read())["error"]["code"] == "cap_exceeded"
    refused.value.close()
    text = await asyncio.to_thread(restarted.end, signal.SIGTERM)
    assert restarted.process.returncode == 0
    assert "open_calls=1" in text
    await provider.stop()


async def test_a_hangup_is_logged_and_ends_nothing_and_an_outage_is_logged(tmp_path):
    provider = SimulatedProvider(SimulatedModel(model="sim-small"))
    config = tmp_path / "r.yaml"
    config.write_text(BASE_CONFIG.format(more="", small="", near=await provider.start(), far="http://127.0.0.1:1/v1"))
    serving = await asyncio.to_thread(Serving, config, tmp_path / "data", free_port())
    for _ in range(3):
        serving.process.send_signal(signal.SIGHUP)
        assert (await asyncio.to_thread(serving.post))["object"] == "chat.completion"
    for _ in range(3):
        await asyncio.to_thread(_ignoring, serving.post, model="frontier")
    assert serving.process.poll() is None
    text = await asyncio.to_thread(serving.end, signal.SIGTERM)
    assert serving.process.returncode == 0, text
    assert "config_not_reloaded signal=SIGHUP config_hash=" in text
    assert (
        "provider_call_failed deployment=frontier provider=far model=sim-frontier reason=upstream_unreachable" in text
    )
    assert "circuit_breaker_opened deployment=frontier" in text
    assert "provider-secret" not in text
    await provider.stop()


def _ignoring(call, **arguments: object) -> None:
    try:
        call(**arguments)
    except (urllib.error.URLError, ConnectionError, OSError):
        return


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo on six recorded sessions."""
    folder = tmp_path_factory.mktemp("demo")
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "Summarize the meeting."}]
    lines = []
    for number in range(6):
        history = [*messages, {"role": "assistant", "content": f"part {number}"}, {"role": "user", "content": "continue"}, {"role": "assistant", "content": "done", "_note": "not sent"}]  # fmt: skip
        lines.append(json.dumps({"id": f"run/{number}", "messages": history}))
    (folder / "runs.jsonl").write_text("\n".join(lines))
    done = penstock(
        "demo", "--exit", "--speed", "max", "--port", str(free_port()), "--data", str(folder / "data"), "--sessions", str(folder / "runs.jsonl")
    )  # fmt: skip
    return done, folder / "data"


def test_a_closed_terminal_ends_the_demo_and_its_gateway(tmp_path):
    port = free_port()
    demo = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli.main", "demo", "--port", str(port), "--data", str(tmp_path)],
        env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert demo.stdout is not None
    with demo.stdout:
        assert "penstock demo:" in demo.stdout.readline()
        os.killpg(demo.pid, signal.SIGHUP)
        # Read to the end: the gateway has closed it as well.
        demo.stdout.read()
    assert demo.wait(20) == 0
    with socket.socket() as probe:
        # Closed connections may linger on the port, a listener may not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def test_the_demo_replays_recorded_sessions_and_prints_its_table(demo):
    done, data = demo
    assert done.returncode == 0, done.stderr
    assert "6 sessions, 12 calls" in done.stdout
    assert "12 answered, 0 refused, 0 failed, 0 not sent after stops." in done.stdout
    assert "Sessions stopped: none. Failures: none. Connections lost and calls repeated: 0." in done.stdout
    rows = query(data, "SELECT session, COUNT(*) FROM entries GROUP BY session")
    assert rows == [(f"run/{number}", 2) for number in range(6)]


@pytest.mark.parametrize("format_", ["csv", "json"])
def test_the_export_equals_the_ledger(demo, format_):
    done = penstock(
        "export", "--by", "task_type,tier", "--format", format_, "--from", "2026-01-01", PENSTOCK_DATA=str(demo[1])
    )
    assert done.returncode == 0, done.stderr
    ((total,),) = query(demo[1], "SELECT SUM(charge_nusd) FROM entries")
    if format_ == "json":
        assert sum(row["charge_nusd"] for row in json.loads(done.stdout)["rows"]) == total
    else:
        heading, *rows = [line.split(",") for line in done.stdout.strip().splitlines()]
        assert sum(int(row[heading.index("charge_nusd")]) for row in rows) == total


def test_the_export_takes_json_as_a_flag(demo):
    done = penstock("export", "--json", "--by", "tier", PENSTOCK_DATA=str(demo[1]))
    assert json.loads(done.stdout)["by"] == ["tier"]
    assert penstock("export", "--json", "--format", "csv", PENSTOCK_DATA=str(demo[1])).returncode == 2


def test_the_summary_of_the_demo_adds_up_in_words():
    tally = ReplayCounts(
        calls_answered=7, sessions_stopped=Counter(loop_stopped=3, cap_exceeded=1), failures=Counter(server_error=1)
    )
    assert _summary(tally, 20, 2.0) == (
        "20 calls in 2.0 s: 7 answered, 4 refused, 1 failed, 8 not sent after stops and failures.\n"
        "Sessions stopped: 3 by the loop guard, 1 by a cap. Failures: 1 server_error. "
        "Connections lost and calls repeated: 0."
    )


def test_the_export_names_the_form_of_a_time(demo):
    done = penstock("export", "--from", "yesterday", PENSTOCK_DATA=str(demo[1]))
    assert (done.returncode, done.stderr) == (2, "penstock: 'from' must be an ISO 8601 time, like 2026-11-01\n")


@pytest.mark.parametrize("port", ["99999", "-1", "abc"])
def test_the_demo_rejects_an_invalid_port(port):
    done = penstock("demo", "--exit", f"--port={port}", "--data", "var/none")
    assert done.returncode == 2
    assert f"--port: must be a whole number from 0 to 65535, not '{port}'" in done.stderr


def test_the_demo_names_a_missing_or_invalid_session_file():
    assert penstock("demo", "--sessions", "nowhere.jsonl").returncode == 2
    done = penstock("demo", "--exit", "--sessions", "pyproject.toml", "--data", "var/none")
    assert done.returncode == 1
    assert "pyproject.toml:1: not a session" in done.stderr


def test_the_demo_never_empties_a_folder_of_something_else(tmp_path):
    (tmp_path / "ledger.sqlite").write_text("precious")
    done = penstock("demo", "--exit", "--data", str(tmp_path))
    assert done.returncode == 1
    assert "not the folder of an earlier demo" in done.stderr
    assert (tmp_path / "ledger.sqlite").read_text() == "precious"
