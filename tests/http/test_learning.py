"""Learning from own traffic over real sockets: labels, floors, cascades, roles."""

import json
import time
from array import array
from collections.abc import Callable

import pytest
from aiohttp import web
from msgspec import structs

from gateway.cli.main import main
from gateway.feeds import scorer_weights
from gateway.offline.training import fit_floors
from gateway.routing.classifiers.learned import corrected_log_odds
from gateway.routing.classify import complexity_of
from gateway.routing.prompt_features import prompt_features
from gateway.simulator.playbook import CALLER, Playbook, UpstreamAnswer
from gateway.stores.labels_sqlite import SqliteLabels, StoredLabel, read_learned, write_learned
from gateway.values.quality import SHADOW_KEY, LearnedFloors, QualityPolicy, QualityTarget
from gateway.values.request import Caller
from tests.entries import entries_in
from tests.feeds.simulated_feed import serving
from tests.gateways import Gateway, StartGateway, until
from tests.snapshots import BASE_CONFIG, ENV, snapshot

SHADOW_LEARNING = "learning: {shadow: {share: 1, judge: frontier, usd_per_day: 1}, refit_minutes: null}"
SHADOW_CONFIG = f"quality: {{keep: 0.9}}\n{SHADOW_LEARNING}"
# Both models, and the judge that compares them, answer with the text that the prompt orders.
GRADED_PROMPT = "[[sim " + json.dumps({"text": '{"first": 4, "second": 10}'}) + "]]"


GROUP = ("default", "summary", "sim-small", "sim-frontier")


def user_message(text: str) -> list:
    return [{"role": "user", "content": text}]


def labels_of(kind: str, count: int, *, small_right: Callable[[int], bool]) -> list[StoredLabel]:
    """Returns stored labels; `small_right` says where the small model suffices."""
    scorer, labels = scorer_weights.load(), []
    for number in range(count):
        text = f"Summarize note {number}." if small_right(number) else f"Prove theorem {number} about rings."
        features = prompt_features(text)
        scores = scorer.score(features)
        labels.append(
            StoredLabel(
                id=f"{kind}{number}", at_ms=int(time.time() * 1000), org="default", task_type=kind,
                small_model="sim-small", large_model="sim-frontier", score=scores.small_insufficient, moved=0.0, small=float(small_right(number)), large=1.0,
                source="judge", scorer=scorer.name, numbers=array("f", features.dense).tobytes(), words=array("I", scorer.word_indices(features.words)).tobytes(), known=1.0,
            )
        )  # fmt: skip
    return labels


def write_fitted_floor(data, count: int = 500) -> None:
    """Writes labels and a floor fitted to them into the folder."""
    labels_store = SqliteLabels(data, 10_000)
    labels_store.create()
    labels_store.add(labels_of("summary", count, small_right=lambda number: number % 2 == 0))
    policy = QualityPolicy(default=QualityTarget(keep=0.9, confidence=0.9))
    write_learned(data, fit_floors.fit_floors(labels_store.valid_labels(), scorer_weights.load(), policy, time.time()))


SUMMARY_HEADER, FLOOR_CONFIG = {"x-penstock-task-type": "summary"}, "quality: {keep: 0.9, confidence: 0.9}"
EASY_PROMPT = user_message("Summarize note 7.")


async def answer_and_prefer_the_frontier(request: web.BaseRequest) -> web.Response:
    """Both providers: each model names itself in its answer; the judge gives the frontier 10 and the small model 0."""
    document = json.loads(await request.read())
    prompt = document["messages"][-1]["content"]
    text = f"An answer of {document['model']}."
    if "<first>" in prompt:
        first, _, second = prompt.partition("<first>")[2].partition("<second>")
        text = json.dumps({"first": 10 * ("sim-frontier" in first), "second": 10 * ("sim-frontier" in second)})
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
    return web.json_response({"id": "c", "choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})


async def serve_until_drift(gateway: Gateway) -> None:
    """Serves requests within the floor until the grades of their shadow calls contradict it."""
    quality = gateway.app.quality_service
    for _ in range(200):
        async with gateway.post(SUMMARY_HEADER, messages=EASY_PROMPT) as answer:
            await answer.read()
        await until(lambda: not quality.open_shadow_calls)
        if quality.drift_reason(GROUP):
            return
    raise AssertionError(f"no drift after {quality.label_counts}")


async def test_a_shadowed_request_becomes_a_label_and_is_charged_separately(start_gateway: StartGateway):
    async with start_gateway(more=SHADOW_CONFIG) as gateway:
        async with gateway.post(messages=user_message(GRADED_PROMPT), user="ada") as answer:
            assert answer.status == 200
            # No floor is supported by labels yet.
            assert answer.headers["x-penstock-tier"] == "frontier"
        await until(lambda: gateway.app.quality_service.label_counts.get("judge"))
        await gateway.app.quality_service.flush()
        async with gateway.get("/metrics") as scraped:
            assert 'penstock_quality_labels_total{source="judge"} 1.0' in await scraped.text()
        async with gateway.get("/admin/budgets") as budgets:
            assert "penstock-shadow" in await budgets.text()
    (label,) = [label for label in SqliteLabels(gateway.data_folder, 1000).valid_labels() if label.source == "judge"]
    # The first answer gets 4 and the second 10 in both orders, so that position cancels out.
    assert (label.small, label.large) == (0.7, 0.7)
    assert label.numbers and label.content is None
    entries = entries_in(gateway.data_folder)
    shadows = [label for label in entries if label.team == "penstock-shadow"]
    assert len(entries) - len(shadows) == 1
    # One call to each tier and two to the judge.
    assert len(shadows) == 4
    assert {label.session_source for label in shadows} == {"shadow"}
    assert not any(label.user == "ada" for label in shadows)
    assert b"stream" not in gateway.small_provider.request_bodies[-1]


async def test_streams_are_shadowed_and_shadow_calls_stop_at_their_budget(start_gateway: StartGateway):
    more = SHADOW_CONFIG.replace("usd_per_day: 1}", "usd_per_day: 0.000000001}")
    async with start_gateway(more=more) as gateway:
        async with gateway.post(messages=user_message(GRADED_PROMPT), stream=True) as answer:
            assert "data:" in await answer.text()
        await until(lambda: gateway.app.quality_service.label_counts.get("shadow_failed"))
        assert not gateway.app.quality_service.label_counts.get("judge")
        assert len(gateway.frontier_provider.request_bodies) == 1


async def test_content_is_kept_only_with_keep_content(start_gateway: StartGateway):
    async with start_gateway(more=SHADOW_CONFIG.replace("learning: {", "learning: {keep_content: true, ")) as gateway:
        async with gateway.post(messages=user_message(GRADED_PROMPT)) as answer:
            await answer.read()
        await until(lambda: gateway.app.quality_service.label_counts.get("judge"))
        await gateway.app.quality_service.flush()
    (label,) = SqliteLabels(gateway.data_folder, 1000).valid_labels()
    assert "first" in (label.content or "")


async def test_a_fitted_floor_is_applied_and_drift_disables_it(start_gateway: StartGateway, tmp_path, capsys):
    more = "quality: {keep: 0.9, confidence: 0.9}"
    data = tmp_path / "data"
    write_fitted_floor(data)
    async with (
        serving(answer_and_prefer_the_frontier) as base_url,
        start_gateway(
            config=BASE_CONFIG.replace("{near}", base_url).replace("{far}", base_url),
            more=f"{more}\n{SHADOW_LEARNING}",
            data=data,
        ) as gateway,
    ):
        task = {"x-penstock-task-type": "summary"}
        async with gateway.post(task, messages=user_message("Summarize note 7.")) as easy:
            assert easy.headers["x-penstock-tier"] == "small"
            assert "floor" in easy.headers["x-penstock-reason"]
        async with gateway.post(task, messages=user_message("Prove theorem 7 about rings.")) as hard:
            assert hard.headers["x-penstock-tier"] == "frontier"
        async with gateway.post(messages=user_message("Summarize note 7.")) as unlabelled:
            # Classified without the header.
            assert unlabelled.headers["x-penstock-task-type"] == "summary"
        async with gateway.post({"x-penstock-task-type": "code"}, messages=user_message("x")) as other:
            assert "no trusted quality floor" in other.headers["x-penstock-reason"]
        async with gateway.get("/metrics") as scraped:
            text = await scraped.text()
            assert (
                'penstock_quality_floor_active{frontier="sim-frontier",org="default",reason="",small="sim-small",task_type="summary"} 1.0'
                in text
            )
            assert 'penstock_routing_decisions_total{basis="floor",task_type="summary"}' in text
        await serve_until_drift(gateway)
        async with gateway.post(task, messages=user_message("Summarize note 7.")) as drifted:
            assert drifted.headers["x-penstock-tier"] == "frontier"
        async with gateway.get("/metrics") as scraped:
            assert 'reason="drift_quality",small="sim-small",task_type="summary"} 0.0' in await scraped.text()


def test_learn_fit_prints_the_floors_and_writes_them(tmp_path, monkeypatch, capsys):
    config = tmp_path / "routing.yaml"
    config.write_text(BASE_CONFIG.format(more="quality: {keep: 0.9}", small="", near="http://a/v1", far="http://b/v1"))
    data = tmp_path / "data"
    labels_store = SqliteLabels(data, 10_000)
    labels_store.create()
    labels = labels_of("summary", 450, small_right=lambda number: number % 2 == 0)
    labels_store.add([*labels, structs.replace(labels[0], id="half", large=None)])
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PENSTOCK_DATA", str(data))
    assert main(["learn", "fit", str(config)]) == 0
    output = capsys.readouterr().out
    assert "summary" in output and "450" in output
    learned = read_learned(data)
    assert learned is not None and learned.floors[GROUP].ceiling is not None


def test_labels_are_bounded_and_reset_at_a_drift(tmp_path):
    labels_store = SqliteLabels(tmp_path, 150)
    labels_store.create()
    labels_store.add(labels_of("a", 400, small_right=lambda number: True))
    assert len(list(labels_store.valid_labels())) == 150
    labels_store.reset(("default", "a", "sim-small", "sim-frontier"), int(time.time() * 1000) + 10_000)
    assert list(labels_store.valid_labels()) == []


def test_an_invalid_learned_file_is_refused_by_name(tmp_path):
    (tmp_path / "learned.json").write_text("{}")
    with pytest.raises(ValueError, match=r"learned\.json"):
        read_learned(tmp_path)


CASCADE_CONFIG = "cascade: {mode: enforce}"


async def test_a_doubted_answer_of_the_small_tier_is_escalated_and_both_are_charged(start_gateway: StartGateway):
    refusing = "Hello! [[sim " + json.dumps({"text": "I'm sorry, but I cannot help with that."}) + "]]"
    async with start_gateway(more=CASCADE_CONFIG) as gateway:
        async with gateway.post(messages=user_message(refusing)) as answer:
            assert answer.status == 200
            assert answer.headers["x-penstock-tier"] == "frontier"
            assert "from small; refusal" in answer.headers["x-penstock-escalated"]
        async with gateway.post(messages=user_message("Hello!")) as plain:
            assert plain.headers["x-penstock-tier"] == "small"
            assert "x-penstock-escalated" not in plain.headers
        async with gateway.post(messages=user_message(refusing), stream=True) as stream:
            # A stream that has begun cannot be escalated.
            await stream.read()
            assert stream.headers["x-penstock-tier"] == "small"
    entries = entries_in(gateway.data_folder)
    first, second = entries[0], entries[1]
    assert (first.tier, first.final, first.code, first.outcome) == ("small", 0, "escalated", "completed")
    assert (second.tier, second.final, second.outcome) == ("frontier", 1, "completed")
    assert first.charge_nusd > 0 and second.charge_nusd > 0


async def test_the_doubted_answer_is_returned_if_the_escalation_fails(start_gateway: StartGateway):
    order = {"text": "I'm sorry, but I cannot help with that.", "fault": "status:500", "at": "sim-frontier"}
    async with (
        start_gateway(more=CASCADE_CONFIG) as gateway,
        gateway.post(messages=user_message("Hello! [[sim " + json.dumps(order) + "]]")) as answer,
    ):
        assert answer.status == 200
        assert "cannot help" in await answer.text()
    entries = entries_in(gateway.data_folder)
    assert [entry.final for entry in entries][-1] == 1
    assert sum(entry.final for entry in entries) == 1
    assert (entries[-1].outcome, entries[-1].code, entries[-1].status) == ("completed", "escalation_failed", 200)


async def test_the_small_tier_is_skipped_if_its_answers_are_always_doubted(start_gateway: StartGateway):
    refusing = "Hello! [[sim " + json.dumps({"text": "I'm sorry, but I cannot help with that."}) + "]]"
    async with start_gateway(more=CASCADE_CONFIG) as gateway:
        for _ in range(60):
            async with gateway.post(messages=user_message(refusing)) as answer:
                reason = answer.headers["x-penstock-reason"]
        assert "of lower-tier answers fail verification" in reason
        assert len(gateway.small_provider.request_bodies) < 60


ROLES_CONFIG = """
roles:
  - {name: planner, agents: ["plan*"], tier_min: frontier}
  - {name: tester, words: [you, test, software], tier_max: small}
  - {name: helper, sub_agents: true, complexity_shift: -8}
"""


async def test_roles_apply_their_own_rules(start_gateway: StartGateway):
    async with start_gateway(more=ROLES_CONFIG) as gateway:
        system = {"role": "system", "content": "You test software. Be brief."}
        hard = "Prove the theorem and derive why the concurrency design can deadlock, then optimize it."
        async with gateway.post({"x-penstock-role": "planner"}, messages=user_message("hi")) as planner:
            assert planner.headers["x-penstock-tier"] == "frontier"
            assert "bound by role planner" in planner.headers["x-penstock-reason"]
        async with gateway.post(
            {"x-penstock-agent": "planner-7", "x-penstock-session": "s"}, messages=user_message("hi")
        ) as planner_agent:
            assert planner_agent.headers["x-penstock-tier"] == "frontier"
        async with gateway.post(messages=[system, *user_message(hard)]) as tester:
            assert tester.headers["x-penstock-tier"] == "small"
        async with gateway.post(
            {"x-penstock-parent-session": "s", "x-penstock-session": "t"}, messages=user_message(hard)
        ) as helper:
            assert "role-helper" in helper.headers["x-penstock-reason"]
        other = {"role": "system", "content": "Another maker's agent."}
        async with gateway.post({"x-penstock-role": "planner"}, messages=[other, *user_message("hi")]) as declared:
            await declared.read()
        async with gateway.post(messages=[other, *user_message("hi again")]) as learned:
            assert "bound by role planner" in learned.headers["x-penstock-reason"]


async def test_callers_report_outcomes_and_feedback(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        session = {"x-penstock-session": "run-1"}
        async with gateway.post(session) as answer:
            request_id = answer.headers["x-penstock-request-id"]
        url = f"{gateway.base_url}/v1/sessions/run-1"
        key = {"Authorization": "Bearer secret-one"}
        async with gateway.client.post(
            f"{url}/outcome", json={"outcome": "success", "units": 3, "unit": "ticket"}, headers=key
        ) as report:
            assert report.status == 200, await report.text()
            assert (await report.json())["quality"] == 1.0
        async with gateway.client.post(
            f"{url}/feedback", json={"rating": 0.25, "request_id": request_id}, headers=key
        ) as rated:
            assert rated.status == 200
        async with gateway.client.post(f"{url}/feedback", json={"redone": True}, headers=key) as redone:
            assert (await redone.json())["quality"] == 0.0
        assert gateway.app.quality_service.label_counts == {"outcome": 1, "feedback": 2}
        await gateway.app.quality_service.flush()
        for path, body, status in (
            ("outcome", {"outcome": "great"}, 400), ("outcome", {"outcome": ["success"]}, 400), ("outcome", {"outcome": "success", "units": -1}, 400),
            ("feedback", {"rating": 7}, 400), ("feedback", {}, 400), ("feedback", {"rating": True}, 400), ("feedback", {"stars": 5}, 400),
        ):  # fmt: skip
            async with gateway.client.post(f"{url}/{path}", json=body, headers=key) as refused:
                assert refused.status == status, body
        async with gateway.client.post(
            f"{gateway.base_url}/v1/sessions/unknown/outcome", json={"outcome": "success"}, headers=key
        ) as unknown:
            assert unknown.status == 404
        async with gateway.client.post(f"{url}/outcome", json={"outcome": "success"}) as unauthenticated:
            assert unauthenticated.status == 401
    labels = list(SqliteLabels(gateway.data_folder, 1000).valid_labels())
    assert sorted((label.source, label.small) for label in labels) == [
        ("feedback", 0.0), ("feedback", 0.25), ("outcome", 1.0),
    ]  # fmt: skip
    assert all(label.large is None for label in labels)


async def test_the_next_turn_shows_whether_a_tool_call_was_accepted(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        session = {"x-penstock-session": "run-1"}
        call = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        }
        async with gateway.post(session) as first:
            await first.read()
        failed = {"role": "tool", "tool_call_id": "c1", "content": "Traceback (most recent call last): 1 error"}
        async with gateway.post(session, messages=[*user_message("hi"), call, failed]) as second:
            await second.read()
        async with gateway.get("/metrics") as scraped:
            text = await scraped.text()
            assert 'penstock_tool_calls_checked_total{deployment="small",task_type="other"} 1.0' in text
            assert 'penstock_tool_calls_accepted_total{deployment="small",task_type="other"} 0.0' in text


@pytest.mark.parametrize("deadline, status", [("1", 200), ("60000", 200), ("0", 400), ("soon", 400), ("9" * 30, 400)])
async def test_the_deadline_header_is_validated(start_gateway: StartGateway, deadline, status):
    async with start_gateway() as gateway, gateway.post({"x-penstock-deadline-ms": deadline}) as answer:
        assert answer.status == status


async def test_a_drift_survives_a_restart(start_gateway: StartGateway, tmp_path):
    data = tmp_path / "data"
    write_fitted_floor(data)
    async with (
        serving(answer_and_prefer_the_frontier) as base_url,
        start_gateway(
            config=BASE_CONFIG.replace("{near}", base_url).replace("{far}", base_url),
            more=f"{FLOOR_CONFIG}\n{SHADOW_LEARNING}",
            data=data,
        ) as gateway,
    ):
        async with gateway.post(SUMMARY_HEADER, messages=EASY_PROMPT) as answer:
            assert answer.headers["x-penstock-tier"] == "small"
        await serve_until_drift(gateway)
    # Written at shutdown and read at start; only a newer fit would replace it.
    async with (
        start_gateway(more=FLOOR_CONFIG, data=data) as gateway,
        gateway.post(SUMMARY_HEADER, messages=EASY_PROMPT) as answer,
    ):
        assert answer.headers["x-penstock-tier"] == "frontier"


@pytest.mark.parametrize("change", ["model", "scorer"])
async def test_a_floor_applies_only_to_the_models_and_scorer_of_its_fit(start_gateway: StartGateway, tmp_path, change):
    data = tmp_path / "data"
    write_fitted_floor(data)
    learned = read_learned(data)
    assert learned is not None
    if change == "scorer":
        write_learned(data, LearnedFloors(scorer="another", fitted_at=learned.fitted_at, floors=learned.floors))
    else:
        floors = {(*group[:2], "another-model", group[3]): floor for group, floor in learned.floors.items()}
        write_learned(data, LearnedFloors(scorer=learned.scorer, fitted_at=learned.fitted_at, floors=floors))
    async with (
        start_gateway(more=FLOOR_CONFIG, data=data) as gateway,
        gateway.post(SUMMARY_HEADER, messages=EASY_PROMPT) as answer,
    ):
        assert answer.headers["x-penstock-tier"] == "frontier"
        assert "no trusted quality floor" in answer.headers["x-penstock-reason"]


@pytest.mark.parametrize("name", ["learned.json", "labels.sqlite"])
async def test_a_corrupt_learning_file_does_not_prevent_serving(start_gateway: StartGateway, tmp_path, name):
    data = tmp_path / "data"
    data.mkdir()
    (data / name).write_bytes(b"{ nonsense" * 200)
    async with start_gateway(more=FLOOR_CONFIG, data=data) as gateway, gateway.post() as answer:
        assert answer.status == 200


async def test_queued_labels_are_written_at_shutdown(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        async with gateway.post({"x-penstock-session": "run-1"}) as answer:
            await answer.read()
        key = {"Authorization": "Bearer secret-one"}
        url = f"{gateway.base_url}/v1/sessions/run-1/outcome"
        async with gateway.client.post(url, json={"outcome": "failure"}, headers=key) as report:
            assert report.status == 200
    assert [label.source for label in SqliteLabels(gateway.data_folder, 1000).valid_labels()] == ["outcome"]


@pytest.mark.parametrize(
    "tool, shadowed",
    [
        ({"type": "function", "function": {"name": "f", "parameters": {}}}, True),
        ({"type": "mcp", "server_label": "mail", "require_approval": "never"}, False),
        ({"type": "web_search"}, False),
    ],
    ids=["function tool", "MCP server tool", "provider tool"],
)
async def test_requests_with_server_side_tools_are_not_shadowed(start_gateway: StartGateway, tool, shadowed):
    async with start_gateway(more=SHADOW_CONFIG) as gateway:
        async with gateway.post(messages=user_message(GRADED_PROMPT), tools=[tool], store=True) as answer:
            await answer.read()
        if not shadowed:
            # The next request without tools is shadowed: the first would have been by then.
            async with gateway.post(messages=user_message(GRADED_PROMPT), store=True) as answer:
                await answer.read()
        await until(lambda: gateway.app.quality_service.label_counts.get("judge"))
        await until(lambda: not gateway.app.quality_service.open_shadow_calls)
        assert gateway.app.quality_service.label_counts == {"judge": 1}
        (repeated,) = (json.loads(body) for body in gateway.small_provider.request_bodies)
        assert repeated["store"] is False
        assert ("tools" in repeated) is shadowed


async def test_shadow_calls_use_no_caller_budget(start_gateway: StartGateway):
    more = f"{SHADOW_CONFIG}\nbudgets: {{all: {{limit: {{calls: 2}}, window: day}}}}"
    async with start_gateway(more=more) as gateway:
        for _ in range(2):
            async with gateway.post({"x-penstock-session": "run-1"}, messages=user_message(GRADED_PROMPT)) as answer:
                assert answer.status == 200
        await until(lambda: gateway.app.quality_service.label_counts.get("judge") == 2)


async def test_shadow_calls_do_not_count_in_session_forecasts():
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi"}]}).encode()
    usage = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
    response = json.dumps({"choices": [{"message": {"content": "hello"}}], "usage": usage}).encode()
    playbook = Playbook(snapshot(), [UpstreamAnswer(body=[response]) for _ in range(4)])
    for caller in (CALLER, Caller(key=SHADOW_KEY, team=SHADOW_KEY), CALLER, Caller(key=SHADOW_KEY, team=SHADOW_KEY)):
        await playbook.ask(body, caller)
    assert [entry.outcome for entry in playbook.ledger_entries] == ["completed"] * 4
    assert playbook.pipeline.router.session_forecasts.call_count("other") == 2


async def test_an_escalation_never_falls_back_to_a_lower_tier(start_gateway: StartGateway):
    medium = (
        "  medium: {{provider: near, model: sim-small, tier: medium, price: {{input: 0.5, output: 4}}, output_tokens: 4000}}\n"
        "routes:\n"
    )
    order = {"text": "I'm sorry, but I cannot help with that.", "fault": "status:500", "at": "sim-frontier"}
    config = BASE_CONFIG.replace("routes:\n", medium).replace(
        "[small, frontier], auto", "[small, medium, frontier], auto"
    )
    more = CASCADE_CONFIG + "\ntiers: {small: {max_complexity: 0}, medium: {max_complexity: 1}}"
    async with (
        start_gateway(config=config, more=more) as gateway,
        gateway.post(messages=user_message("Hello! [[sim " + json.dumps(order) + "]]")) as answer,
    ):
        assert "cannot help" in await answer.text()
        assert answer.headers["x-penstock-tier"] == "medium"
    entries = entries_in(gateway.data_folder)
    assert "small" not in {entry.tier for entry in entries}
    assert sum(entry.final for entry in entries) == 1


async def test_an_invalid_response_schema_does_not_fail_the_request(start_gateway: StartGateway):
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": [["object"]]}}}
    async with start_gateway(more=CASCADE_CONFIG) as gateway, gateway.post(response_format=schema) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("kind", [["function"], {"a": 1}, 7])
async def test_a_tool_of_unknown_type_does_not_fail_the_request(start_gateway: StartGateway, kind):
    async with start_gateway(more=SHADOW_CONFIG) as gateway:
        tool = {"type": kind, "function": {"name": "f", "parameters": {}}}
        async with gateway.post(messages=user_message(GRADED_PROMPT), tools=[tool]) as answer:
            status = answer.status
        # The provider may reject the tool; the gateway's inspection of it must not fail.
        assert status in (200, 400)
        assert gateway.app.quality_service.label_counts == {}


async def test_shadow_calls_stay_out_of_caller_budgets_after_a_restart(start_gateway: StartGateway, tmp_path):
    config = f"{SHADOW_CONFIG}\nbudgets: {{all: {{limit: {{calls: 1}}, window: day}}}}"
    data = tmp_path / "kept"
    async with start_gateway(more=SHADOW_CONFIG, data=data) as gateway:
        async with gateway.post(messages=user_message(GRADED_PROMPT)) as answer:
            await answer.read()
        await until(lambda: gateway.app.quality_service.label_counts.get("judge"))
    two_calls = config.replace("calls: 1}", "calls: 2}")
    async with start_gateway(more=two_calls, data=data) as gateway, gateway.post(messages=user_message("hi")) as answer:
        # The budget counts the caller's one call and none of the four shadow calls.
        assert answer.status == 200


@pytest.mark.parametrize(
    "keep, text",
    [(0.9, "Summarize note 10."), (0.5, "Prove theorem 11 about rings.")],
    ids=["an easy prompt", "a hard prompt"],
)
def test_a_fitted_ceiling_is_a_complexity_that_routing_computes(keep, text):
    labels = labels_of("summary", 500, small_right=lambda number: number % 2 == 0)
    scorer, features = scorer_weights.load(), prompt_features(text)
    fitted = fit_floors.fit_group(labels, scorer, keep, 0.9)
    assert fitted.head is not None
    scores = scorer.score(features)
    live = corrected_log_odds(fitted.head, scores.gain, scorer.standardize(features.dense), features.words)
    assert complexity_of(live) == fitted.ceiling
