"""What a gateway learns from its own traffic, and how that acts: real sockets, the real labels' file, the real fit."""

import asyncio
import json
import time
from array import array
from collections.abc import Callable

import pytest
from msgspec import structs

from gateway.cli.main import main
from gateway.config.load import parse
from gateway.feeds import scorer_weights
from gateway.offline.training import fit_floors
from gateway.routing.classifiers.learned import corrected_log_odds
from gateway.routing.classify import complexity_of
from gateway.routing.prompt_features import prompt_features
from gateway.routing.quality_floor import QualityLabel
from gateway.stores.labels_sqlite import SqliteLabels, StoredLabel, read_learned, write_learned
from gateway.stores.ledger_sqlite import SqliteLedger
from gateway.values.quality import LearnedFloors, QualityPolicy, QualityTarget
from tests.gateways import StartGateway
from tests.snapshots import BASE_CONFIG, ENV

SHADOWED = "quality: {keep: 0.9}\nlearning: {shadow: {share: 1, judge: frontier, usd_per_day: 1}, refit_minutes: null}"
# Both models, and the judge that is shown their answers, say what the prompt orders.
GRADED = "[[sim " + json.dumps({"text": '{"first": 4, "second": 10}'}) + "]]"


GROUP = ("default", "summary", "sim-small", "sim-frontier")


def asked(text: str) -> list:
    return [{"role": "user", "content": text}]


async def until(found: Callable[[], object]) -> None:
    """Wait for what happens behind the request."""
    for _ in range(500):
        if found():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not happen")


def labels_of(kind: str, count: int, *, small_right: Callable[[int], bool]) -> list[StoredLabel]:
    """Labels as a gateway would keep them, of prompts that the small model answers well or not by what they ask."""
    scorer, found = scorer_weights.load(), []
    for number in range(count):
        text = f"Summarize note {number}." if small_right(number) else f"Prove theorem {number} about rings."
        read = prompt_features(text)
        scored = scorer.score(read)
        found.append(
            StoredLabel(
                id=f"{kind}{number}", at_ms=int(time.time() * 1000), org="default", task_type=kind,
                small_model="sim-small", large_model="sim-frontier", score=scored.small_insufficient, moved=0.0, small=float(small_right(number)), large=1.0,
                how="judge", scorer=scorer.name, numbers=array("f", read.dense).tobytes(), words=array("I", scorer.word_indices(read.words)).tobytes(), known=1.0,
            )
        )  # fmt: skip
    return found


async def test_a_shadowed_request_becomes_a_label_and_is_charged_apart(start_gateway: StartGateway):
    async with start_gateway(more=SHADOWED) as it:
        async with it.post(messages=asked(GRADED), user="somebody") as answer:
            assert answer.status == 200
            # No label carries the claim yet.
            assert answer.headers["x-penstock-tier"] == "frontier"
        await until(lambda: it.app.quality_service.label_counts.get("judge"))
        await it.app.quality_service.flush()
        async with it.get("/metrics") as scraped:
            assert 'penstock_labels{how="judge"} 1.0' in await scraped.text()
        async with it.get("/admin/budgets") as budgets:
            assert "penstock-shadow" in await budgets.text()
    (label,) = [one for one in SqliteLabels(it.data_folder, 1000).valid_labels() if one.how == "judge"]
    # The first of both answers gets 4, the second 10, in both orders: no place is favoured.
    assert (label.small, label.large) == (0.7, 0.7)
    assert label.numbers and label.content is None
    entries = list(SqliteLedger(it.data_folder / "ledger.sqlite").entries())
    shadows = [one for one in entries if one.team == "penstock-shadow"]
    assert len(entries) - len(shadows) == 1
    # One of each tier, and the judge twice.
    assert len(shadows) == 4
    assert {one.session_source for one in shadows} == {"shadow"}
    assert not any(one.user == "somebody" for one in shadows)
    assert b"stream" not in it.small_provider.request_bodies[-1]


async def test_streams_are_shadowed_whole_and_shadows_end_with_their_budget(start_gateway: StartGateway):
    more = SHADOWED.replace("usd_per_day: 1}", "usd_per_day: 0.000000001}")
    async with start_gateway(more=more) as it:
        async with it.post(messages=asked(GRADED), stream=True) as answer:
            assert "data:" in await answer.text()
        await until(lambda: it.app.quality_service.label_counts.get("shadow_failed"))
        assert not it.app.quality_service.label_counts.get("judge")
        assert len(it.frontier_provider.request_bodies) == 1


async def test_content_is_kept_only_where_the_operator_wants_it(start_gateway: StartGateway):
    async with start_gateway(more=SHADOWED.replace("learning: {", "learning: {keep_content: true, ")) as it:
        async with it.post(messages=asked(GRADED)) as answer:
            await answer.read()
        await until(lambda: it.app.quality_service.label_counts.get("judge"))
        await it.app.quality_service.flush()
    (label,) = SqliteLabels(it.data_folder, 1000).valid_labels()
    assert "first" in (label.content or "")


async def test_what_was_fitted_is_published_and_drift_takes_it_back(start_gateway: StartGateway, tmp_path, capsys):
    more = "quality: {keep: 0.9, confidence: 0.9}"
    data = tmp_path / "known"
    kept = SqliteLabels(data, 10_000)
    kept.create()
    kept.add(labels_of("summary", 500, small_right=lambda number: number % 2 == 0))
    policy = QualityPolicy(default=QualityTarget(keep=0.9, confidence=0.9))
    write_learned(data, fit_floors.fit_floors(kept.valid_labels(), scorer_weights.load(), policy, time.time()))
    async with start_gateway(more=more, data=data) as it:
        task = {"x-penstock-task-type": "summary"}
        async with it.post(task, messages=asked("Summarize note 7.")) as easy:
            assert easy.headers["x-penstock-tier"] == "small"
            assert "floor" in easy.headers["x-penstock-reason"]
        async with it.post(task, messages=asked("Prove theorem 7 about rings.")) as hard:
            assert hard.headers["x-penstock-tier"] == "frontier"
        async with it.post(messages=asked("Summarize note 7.")) as unlabelled:
            # Another kind of work, for which nobody has labels.
            assert unlabelled.headers["x-penstock-task-type"] == "summary"
        async with it.post({"x-penstock-task-type": "code"}, messages=asked("x")) as other:
            assert "do not carry" in other.headers["x-penstock-reason"]
        async with it.get("/metrics") as scraped:
            text = await scraped.text()
            assert (
                'penstock_quality_floor_held{frontier="sim-frontier",org="default",small="sim-small",task_type="summary",why_not=""} 1.0'
                in text
            )
            assert 'penstock_aims{basis="floor",task_type="summary"}' in text
        group = GROUP
        drift = it.app.quality_service._tier_targets.drift
        while not drift.record_label(group, QualityLabel(score=0.0, small=0.0, large=1.0), 1.0, 0.9, now=time.time()):
            pass
        async with it.post(task, messages=asked("Summarize note 7.")) as fallen:
            assert fallen.headers["x-penstock-tier"] == "frontier"
        async with it.get("/metrics") as scraped:
            assert 'why_not="drift_quality"} 0.0' in await scraped.text()


def test_learn_fit_prints_the_floors_and_writes_them(tmp_path, monkeypatch, capsys):
    config = tmp_path / "routing.yaml"
    config.write_text(BASE_CONFIG.format(more="quality: {keep: 0.9}", small="", near="http://a/v1", far="http://b/v1"))
    data = tmp_path / "data"
    kept = SqliteLabels(data, 10_000)
    kept.create()
    both = labels_of("summary", 450, small_right=lambda number: number % 2 == 0)
    kept.add([*both, structs.replace(both[0], id="half", large=None)])
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PENSTOCK_DATA", str(data))
    assert main(["learn", "fit", str(config)]) == 0
    told = capsys.readouterr().out
    assert "summary" in told and "450" in told
    learnt = read_learned(data)
    assert learnt is not None and learnt.floors[GROUP].ceiling is not None


def test_labels_are_bounded_and_forgotten_at_a_drift(tmp_path):
    kept = SqliteLabels(tmp_path, 150)
    kept.create()
    kept.add(labels_of("a", 400, small_right=lambda number: True))
    assert len(list(kept.valid_labels())) == 150
    kept.reset(("default", "a", "sim-small", "sim-frontier"), int(time.time() * 1000) + 10_000)
    assert list(kept.valid_labels()) == []


def test_a_file_that_is_no_learnt_one_is_refused_with_its_name(tmp_path):
    (tmp_path / "learned.json").write_text("{}")
    with pytest.raises(ValueError, match=r"learned\.json"):
        read_learned(tmp_path)


CASCADE = "cascade: {mode: enforce}"


async def test_a_doubtful_small_answer_is_escalated_and_both_are_charged(start_gateway: StartGateway):
    refusing = "Hello! [[sim " + json.dumps({"text": "I'm sorry, but I cannot help with that."}) + "]]"
    async with start_gateway(more=CASCADE) as it:
        async with it.post(messages=asked(refusing)) as answer:
            assert answer.status == 200
            assert answer.headers["x-penstock-tier"] == "frontier"
            assert "from small; refuses" in answer.headers["x-penstock-escalated"]
        async with it.post(messages=asked("Hello!")) as plain:
            assert plain.headers["x-penstock-tier"] == "small"
            assert "x-penstock-escalated" not in plain.headers
        async with it.post(messages=asked(refusing), stream=True) as stream:
            # What has begun cannot be taken back.
            await stream.read()
            assert stream.headers["x-penstock-tier"] == "small"
    entries = list(SqliteLedger(it.data_folder / "ledger.sqlite").entries())
    first, second = entries[0], entries[1]
    assert (first.tier, first.final, first.code, first.outcome) == ("small", 0, "escalated", "completed")
    assert (second.tier, second.final, second.outcome) == ("frontier", 1, "completed")
    assert first.charge_nusd > 0 and second.charge_nusd > 0


async def test_where_nobody_above_can_answer_the_doubted_one_is_given(start_gateway: StartGateway):
    order = {"text": "I'm sorry, but I cannot help with that.", "fault": "status:500", "at": "sim-frontier"}
    async with (
        start_gateway(more=CASCADE) as it,
        it.post(messages=asked("Hello! [[sim " + json.dumps(order) + "]]")) as answer,
    ):
        assert answer.status == 200
        assert "cannot help" in await answer.text()
    entries = list(SqliteLedger(it.data_folder / "ledger.sqlite").entries())
    assert [one.final for one in entries][-1] == 1
    assert sum(one.final for one in entries) == 1
    assert (entries[-1].outcome, entries[-1].code, entries[-1].status) == ("completed", "not_escalated", 200)


async def test_small_answers_that_are_always_doubted_are_not_asked_for_any_more(start_gateway: StartGateway):
    refusing = "Hello! [[sim " + json.dumps({"text": "I'm sorry, but I cannot help with that."}) + "]]"
    async with start_gateway(more=CASCADE) as it:
        for _ in range(60):
            async with it.post(messages=asked(refusing)) as answer:
                reason = answer.headers["x-penstock-reason"]
        assert "of smaller answers are doubted" in reason
        assert len(it.small_provider.request_bodies) < 60


ROLES = """
roles:
  - {name: planner, agents: ["plan*"], tier_min: frontier}
  - {name: tester, words: [you, test, software], tier_max: small}
  - {name: helper, sub_agents: true, complexity_shift: -8}
"""


async def test_roles_have_rules_of_their_own(start_gateway: StartGateway):
    async with start_gateway(more=ROLES) as it:
        system = {"role": "system", "content": "You test software. Be brief."}
        hard = "Prove the theorem and derive why the concurrency design can deadlock, then optimize it."
        async with it.post({"x-penstock-role": "planner"}, messages=asked("hi")) as planner:
            assert planner.headers["x-penstock-tier"] == "frontier"
            assert "bound by role planner" in planner.headers["x-penstock-reason"]
        async with it.post({"x-penstock-agent": "planner-7", "x-penstock-session": "s"}, messages=asked("hi")) as named:
            assert named.headers["x-penstock-tier"] == "frontier"
        async with it.post(messages=[system, *asked(hard)]) as tester:
            assert tester.headers["x-penstock-tier"] == "small"
        async with it.post(
            {"x-penstock-parent-session": "s", "x-penstock-session": "t"}, messages=asked(hard)
        ) as helper:
            assert "role-helper" in helper.headers["x-penstock-reason"]
        other = {"role": "system", "content": "Another maker's agent."}
        async with it.post({"x-penstock-role": "planner"}, messages=[other, *asked("hi")]) as declared:
            await declared.read()
        async with it.post(messages=[other, *asked("hi again")]) as learnt:
            assert "bound by role planner" in learnt.headers["x-penstock-reason"]


async def test_callers_tell_how_their_sessions_went(start_gateway: StartGateway):
    async with start_gateway() as it:
        named = {"x-penstock-session": "run-1"}
        async with it.post(named) as answer:
            request_id = answer.headers["x-penstock-request-id"]
        at = f"{it.base_url}/v1/sessions/run-1"
        key = {"Authorization": "Bearer secret-one"}
        async with it.client.post(
            f"{at}/outcome", json={"outcome": "success", "units": 3, "unit": "ticket"}, headers=key
        ) as told:
            assert told.status == 200, await told.text()
            assert (await told.json())["quality"] == 1.0
        async with it.client.post(
            f"{at}/feedback", json={"rating": 0.25, "request_id": request_id}, headers=key
        ) as rated:
            assert rated.status == 200
        async with it.client.post(f"{at}/feedback", json={"redone": True}, headers=key) as redone:
            assert (await redone.json())["quality"] == 0.0
        assert it.app.quality_service.label_counts == {"outcome": 1, "feedback": 2}
        await it.app.quality_service.flush()
        for path, body, status in (
            ("outcome", {"outcome": "great"}, 400), ("outcome", {"outcome": ["success"]}, 400), ("outcome", {"outcome": "success", "units": -1}, 400),
            ("feedback", {"rating": 7}, 400), ("feedback", {}, 400), ("feedback", {"rating": True}, 400), ("feedback", {"stars": 5}, 400),
        ):  # fmt: skip
            async with it.client.post(f"{at}/{path}", json=body, headers=key) as refused:
                assert refused.status == status, body
        async with it.client.post(
            f"{it.base_url}/v1/sessions/nobody/outcome", json={"outcome": "success"}, headers=key
        ) as unknown:
            assert unknown.status == 404
        async with it.client.post(f"{at}/outcome", json={"outcome": "success"}) as stranger:
            assert stranger.status == 401
    labels = list(SqliteLabels(it.data_folder, 1000).valid_labels())
    assert sorted((one.how, one.small) for one in labels) == [
        ("feedback", 0.0), ("feedback", 0.25), ("outcome", 1.0),
    ]  # fmt: skip
    assert all(one.large is None for one in labels)


async def test_the_next_turn_tells_how_a_call_fared(start_gateway: StartGateway):
    async with start_gateway() as it:
        named = {"x-penstock-session": "run-1"}
        call = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        }
        async with it.post(named) as first:
            await first.read()
        failed = {"role": "tool", "tool_call_id": "c1", "content": "Traceback (most recent call last): 1 error"}
        async with it.post(named, messages=[*asked("hi"), call, failed]) as second:
            await second.read()
        async with it.get("/metrics") as scraped:
            text = await scraped.text()
            assert 'penstock_checked_calls{deployment="small",task_type="other"} 1.0' in text
            assert 'penstock_checked_calls_accepted{deployment="small",task_type="other"} 0.0' in text


@pytest.mark.parametrize("deadline, status", [("1", 200), ("60000", 200), ("0", 400), ("soon", 400), ("9" * 30, 400)])
async def test_a_deadline(start_gateway: StartGateway, deadline, status):
    async with start_gateway() as it, it.post({"x-penstock-deadline-ms": deadline}) as answer:
        assert answer.status == status


def known(data, count: int = 500) -> None:
    """A folder in which a floor was fitted."""
    kept = SqliteLabels(data, 10_000)
    kept.create()
    kept.add(labels_of("summary", count, small_right=lambda number: number % 2 == 0))
    policy = QualityPolicy(default=QualityTarget(keep=0.9, confidence=0.9))
    write_learned(data, fit_floors.fit_floors(kept.valid_labels(), scorer_weights.load(), policy, time.time()))


SUMMARY, FLOOR = {"x-penstock-task-type": "summary"}, "quality: {keep: 0.9, confidence: 0.9}"
EASY = asked("Summarize note 7.")


async def test_a_drift_outlives_a_restart(start_gateway: StartGateway, tmp_path):
    data = tmp_path / "known"
    known(data)
    async with start_gateway(more=FLOOR, data=data) as it:
        async with it.post(SUMMARY, messages=EASY) as answer:
            assert answer.headers["x-penstock-tier"] == "small"
        it.app.quality_service._report_drift(GROUP, "quality")
    # Written down at the end, and read at the start: no fit since knows better.
    async with start_gateway(more=FLOOR, data=data) as it, it.post(SUMMARY, messages=EASY) as answer:
        assert answer.headers["x-penstock-tier"] == "frontier"


@pytest.mark.parametrize("change", ["model", "scorer"])
async def test_a_floor_is_about_the_models_and_the_scorer_that_it_was_fitted_with(
    start_gateway: StartGateway, tmp_path, change
):
    data = tmp_path / "known"
    known(data)
    learnt = read_learned(data)
    assert learnt is not None
    if change == "scorer":
        write_learned(data, LearnedFloors(scorer="another", fitted_at=learnt.fitted_at, floors=learnt.floors))
    else:
        other = {(*group[:2], "another-model", group[3]): one for group, one in learnt.floors.items()}
        write_learned(data, LearnedFloors(scorer=learnt.scorer, fitted_at=learnt.fitted_at, floors=other))
    async with start_gateway(more=FLOOR, data=data) as it, it.post(SUMMARY, messages=EASY) as answer:
        assert answer.headers["x-penstock-tier"] == "frontier"
        assert "do not carry" in answer.headers["x-penstock-reason"]


@pytest.mark.parametrize("name", ["learned.json", "labels.sqlite"])
async def test_a_file_that_is_broken_stops_nobody(start_gateway: StartGateway, tmp_path, name):
    data = tmp_path / "known"
    data.mkdir()
    (data / name).write_bytes(b"{ nonsense" * 200)
    async with start_gateway(more=FLOOR, data=data) as it, it.post() as answer:
        assert answer.status == 200


async def test_what_waits_to_be_written_is_written_at_the_end(start_gateway: StartGateway):
    async with start_gateway() as it:
        async with it.post({"x-penstock-session": "run-1"}) as answer:
            await answer.read()
        key = {"Authorization": "Bearer secret-one"}
        at = f"{it.base_url}/v1/sessions/run-1/outcome"
        async with it.client.post(at, json={"outcome": "failure"}, headers=key) as told:
            assert told.status == 200
    assert [one.how for one in SqliteLabels(it.data_folder, 1000).valid_labels()] == ["outcome"]


@pytest.mark.parametrize(
    "tool, shadowed",
    [
        ({"type": "function", "function": {"name": "f", "parameters": {}}}, True),
        ({"type": "mcp", "server_label": "mail", "require_approval": "never"}, False),
        ({"type": "web_search"}, False),
    ],
    ids=["the caller's own", "a server's", "the provider's"],
)
async def test_only_what_does_nothing_is_asked_again(start_gateway: StartGateway, tool, shadowed):
    async with start_gateway(more=SHADOWED) as it:
        async with it.post(messages=asked(GRADED), tools=[tool], store=True) as answer:
            await answer.read()
        if shadowed:
            await until(lambda: it.app.quality_service.label_counts.get("judge"))
            assert json.loads(it.small_provider.request_bodies[-1])["store"] is False
        else:
            await asyncio.sleep(0.2)
            assert it.app.quality_service.label_counts == {}
            assert not it.small_provider.request_bodies


async def test_shadows_refuse_no_caller_and_teach_nothing_about_sessions(start_gateway: StartGateway):
    more = f"{SHADOWED}\nbudgets: {{all: {{limit: {{calls: 2}}, window: day}}}}"
    async with start_gateway(more=more) as it:
        for _ in range(2):
            async with it.post({"x-penstock-session": "run-1"}, messages=asked(GRADED)) as answer:
                assert answer.status == 200
        await until(lambda: it.app.quality_service.label_counts.get("judge") == 2)
        forecasts = it.app._pipeline.router._session_forecasts
        assert forecasts._call_stats["other"].calls == 2


async def test_what_was_doubted_is_never_followed_by_less(start_gateway: StartGateway):
    medium = "  medium: {provider: near, model: sim-small, tier: medium, price: {input: 0.5, output: 4}, output_tokens: 4000}\nroutes:\n"
    order = {"text": "I'm sorry, but I cannot help with that.", "fault": "status:500", "at": "sim-frontier"}
    async with start_gateway() as it:
        text = BASE_CONFIG.format(
            more=CASCADE + "\ntiers: {small: {max_complexity: 0}, medium: {max_complexity: 1}}",
            small="",
            near="@near",
            far="@far",
        )
        text = text.replace("routes:\n", medium).replace(
            "auto: {candidates: [small, frontier]", "auto: {candidates: [small, medium, frontier]"
        )
        near, far = it.app._world.deployments["small"].base_url, it.app._world.deployments["frontier"].base_url
        it.app._world = parse(text.replace("@near", near).replace("@far", far), "t", ENV)[0]
        async with it.post(messages=asked("Hello! [[sim " + json.dumps(order) + "]]")) as answer:
            assert "cannot help" in await answer.text()
            assert answer.headers["x-penstock-tier"] == "medium"
    entries = list(SqliteLedger(it.data_folder / "ledger.sqlite").entries())
    assert "small" not in {one.tier for one in entries}
    assert sum(one.final for one in entries) == 1


async def test_a_schema_that_is_none_does_no_harm(start_gateway: StartGateway):
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": [["object"]]}}}
    async with start_gateway(more=CASCADE) as it, it.post(response_format=schema) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("kind", [["function"], {"a": 1}, 7])
async def test_a_tool_of_no_known_kind_costs_nobody_an_answer(start_gateway: StartGateway, kind):
    async with start_gateway(more=SHADOWED) as it:
        tool = {"type": kind, "function": {"name": "f", "parameters": {}}}
        async with it.post(messages=asked(GRADED), tools=[tool]) as answer:
            status = answer.status
        # What the provider makes of such a tool is its business; that it was looked at here is not.
        assert status in (200, 400)
        assert it.app.quality_service.label_counts == {}


async def test_what_shadows_took_is_theirs_after_a_restart_too(start_gateway: StartGateway, tmp_path):
    more = f"{SHADOWED}\nbudgets: {{all: {{limit: {{calls: 1}}, window: day}}}}"
    data = tmp_path / "kept"
    async with start_gateway(more=SHADOWED, data=data) as it:
        async with it.post(messages=asked(GRADED)) as answer:
            await answer.read()
        await until(lambda: it.app.quality_service.label_counts.get("judge"))
    two = more.replace("calls: 1}", "calls: 2}")
    async with start_gateway(more=two, data=data) as it, it.post(messages=asked("hi")) as answer:
        # One call of the caller's, none of the four shadow calls.
        assert answer.status == 200


def test_what_is_fitted_to_is_what_is_routed_by():
    labels = labels_of("summary", 500, small_right=lambda number: number % 2 == 0)
    scorer = scorer_weights.load()
    fitted = fit_floors.fit_group(labels, scorer, 0.9, 0.9)
    assert fitted.head is not None
    for text in ("Summarize note 2.", "Prove theorem 3 about rings."):
        read = prompt_features(text)
        scored = scorer.score(read)
        live = corrected_log_odds(fitted.head, scored.gain, scorer.standardize(read.dense), read.words)
        label = next(one for one in labels if one.numbers == array("f", read.dense).tobytes())
        assert complexity_of(live) == fit_floors._complexity(
            fit_floors._training_label(label, scorer), label, fitted.head
        )
