"""Whose request this is, and whether it turns in circles."""

import json

import pytest

from gateway.sessions import caps, loops
from gateway.sessions.identity import Session, SessionBook
from gateway.values.budget import SessionCaps
from gateway.values.catalog import LoopLimits
from gateway.wire import chat

LIMITS = LoopLimits(warn=3, stop=6, enforce=True)
NOW = 1_790_000_000.0


def parsed(messages: list[dict]):
    return chat.parse(json.dumps({"model": "auto", "messages": messages}).encode())


def opening(text: str = "do it") -> list[dict]:
    return [{"role": "system", "content": "You are an agent."}, {"role": "user", "content": text}]


def step(number: int, result: str, arguments: str = '{"cmd": "ls"}') -> list[dict]:
    call = {"id": f"c{number}", "type": "function", "function": {"name": "bash", "arguments": arguments}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"c{number}", "content": result},
    ]


class Agents:
    """Asks as an agent does, with its whole history each time."""

    def __init__(self) -> None:
        self.book, self.count = SessionBook(), 0

    def ask(self, messages: list[dict], key: str = "k1") -> Session:
        self.count += 1
        session = self.book.inferred(key, parsed(messages), fresh_id=f"s{self.count}", now=NOW)
        session.calls += 1
        return session


def test_a_growing_history_is_one_session():
    agents, history = Agents(), opening()
    ids = set()
    for turn in range(6):
        ids.add(agents.ask(history).id)
        history = history + step(turn, f"result {turn}")
    assert len(ids) == 1


def test_equal_openings_are_different_sessions_that_stay_apart():
    agents = Agents()
    first, second = agents.ask(opening()).id, agents.ask(opening()).id
    assert first != second
    one = agents.ask(opening() + step(1, "left"))
    two = agents.ask(opening() + step(1, "right!"))
    assert one.id != two.id
    assert agents.ask(opening() + step(1, "left") + step(2, "x")).id == one.id
    assert agents.ask(opening() + step(1, "right!") + step(2, "x")).id == two.id


def test_a_fork_inherits_what_its_path_had_taken():
    agents, trunk = Agents(), opening() + step(1, "a")
    agents.ask(opening())
    agents.ask(trunk)
    agents.ask(trunk + step(2, "left"))
    fork = agents.ask(trunk + step(2, "a different result"))
    assert fork.inherited_calls == 2


def test_a_retry_of_the_same_request_stays_in_its_session():
    agents, history = Agents(), opening()
    agents.ask(history)
    longer = history + step(1, "a")
    assert agents.ask(longer).id == agents.ask(longer).id


def test_keys_never_share_a_session():
    agents = Agents()
    one = agents.ask(opening(), key="k1")
    other = agents.ask(opening() + step(1, "a"), key="k2")
    assert one.id != other.id
    assert agents.book.named("k1", "x", "h", now=NOW) is not agents.book.named("k2", "x", "h", now=NOW)


def test_memory_is_bounded():
    book = SessionBook(capacity=10)
    for number in range(50):
        book.named("k", f"s{number}", "header", now=NOW)
        book.inferred("k", parsed(opening(str(number))), fresh_id=f"f{number}", now=NOW)
    assert len(book) == 20


def run(results: list[str], *, arguments: list[str] | None = None) -> Session:
    session, history = Session(id="s", source="", started_at=NOW), opening()
    for turn, result in enumerate(results):
        history = history + step(turn, result, *([arguments[turn]] if arguments else []))
        loops.observe(session, parsed(history).messages)
    return session


@pytest.mark.parametrize(
    "results, arguments, expected",
    [
        (["same"] * 3, None, ""),
        (["same"] * 4, None, "warn"),
        (["same"] * 7, None, "stop"),
        ([f"page {n}" for n in range(30)], None, ""),
        (["a", "b"] * 6, None, "stop"),
        (["a", "b", "c", "d"] * 4, None, "stop"),
        (["ok"] * 20, [f'{{"cmd": "edit {n}"}}' for n in range(20)], ""),
        (["ok"] * 8, ['{"a": 1, "b": 2}', '{"b":2,"a":1}'] * 4, "stop"),
        ([result for n in range(9) for result in ("fail", f"edit {n}")], None, ""),
    ],
    ids=[
        "three times is nothing", "then a warning", "then the stop", "polling with news is healthy", "cycles of two",
        "cycles of four", "batch edits are healthy", "spacing and key order do not hide a repeat", "short edit-test cycles",
    ],
)  # fmt: skip
def test_the_loop_guard(results, arguments, expected):
    assert loops.step_of(run(results, arguments=arguments), LIMITS) == expected


def test_a_side_call_in_the_same_session_does_not_make_the_history_look_repeated():
    session, history = Session(id="s", source="", started_at=NOW), opening()
    for turn in range(14):
        history = history + step(turn, f"result {turn}")
        loops.observe(session, parsed(history).messages)
        loops.observe(session, parsed([{"role": "user", "content": "Give this chat a title."}]).messages)
    loops.observe(session, parsed(history + step(99, "another")).messages)
    assert session.loop_score == 0


def test_conversations_of_one_session_are_bounded():
    session = Session(id="s", source="", started_at=NOW)
    for number in range(50):
        loops.observe(session, parsed(opening(f"task {number}") + step(1, "x")).messages)
    assert len(session.talks) == loops.CONVERSATIONS_MAX


def test_parts_tell_sessions_apart():
    agents = Agents()
    for text in ("alice", "carol"):
        agents.ask([{"role": "user", "content": [{"type": "text", "text": text}]}])
    history = [{"role": "user", "content": [{"type": "text", "text": "alice"}]}, *step(1, "x")]
    assert agents.ask(history).id == "s1"


def test_new_steps_take_the_score_down_again():
    assert run(["same"] * 5 + [f"new {n}" for n in range(10)]).loop_score == 0


def test_only_new_messages_are_read():
    session, history = Session(id="s", source="", started_at=NOW), opening() + step(1, "x") + step(2, "x")
    loops.observe(session, parsed(history).messages)
    score = session.loop_score
    loops.observe(session, parsed(history).messages)
    assert session.loop_score == score == 1.0


def test_text_agents_loop_too():
    session, history = Session(id="s", source="", started_at=NOW), opening()
    for _ in range(8):
        history = [*history, {"role": "assistant", "content": "run ls"}, {"role": "user", "content": "no such file"}]
        loops.observe(session, parsed(history).messages)
    assert loops.step_of(session, LIMITS) == "stop"


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "content": "orphan"},
        {"role": "assistant", "tool_calls": "nonsense"},
        {"role": "assistant", "tool_calls": [1, None, {"function": 7}]},
        {"role": "assistant", "tool_calls": None, "content": None},
        {"role": "tool", "tool_call_id": 7, "content": [{"type": "text", "text": "x"}]},
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": {}, "arguments": {"n": 10**40}}}]},
        {"role": "user", "content": [10**40]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[" * 300 + "]" * 300}}]},
    ],
)
def test_odd_histories_do_not_break_the_guard(message):
    session = Session(id="s", source="", started_at=NOW)
    loops.observe(session, parsed([*opening(), message, {"role": "tool", "content": "x"}]).messages)
    assert session.loop_score >= 0


def test_a_call_that_is_no_text_does_not_break_the_guard():
    raw = b'{"model":"a","messages":[{"role":"user"},{"role":"user"},{"role":"assistant","tool_calls":[{"function":{"name":"\xff"}}]},{"role":"tool","content":"x"}]}'
    session = Session(id="s", source="", started_at=NOW)
    loops.observe(session, chat.parse(raw).messages)
    assert session.loop_score == 0


def test_the_stop_carries_its_evidence():
    refusal = loops.refusal(run(["same"] * 9), LIMITS)
    assert refusal.code == "loop_stopped"
    assert refusal.details["repeats"] == 9


def test_time_runs_out():
    session = Session(id="s", source="", started_at=NOW)
    assert caps.overtime(SessionCaps(seconds=60), session, now=NOW + 60) is None
    late = caps.overtime(SessionCaps(seconds=60), session, now=NOW + 61)
    assert late is not None and late.code == "session_time_exceeded"
