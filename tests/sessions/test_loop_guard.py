"""What the loop guard counts as a loop, and what not."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import chat, messages, responses
from gateway.sessions import ladder, loop_guard
from gateway.sessions.conversation_memory import RECORDS_MAX
from gateway.sessions.session_index import Session
from tests.sessions.agent_requests import NOW, Talk, opening, parsed, step

STOP, NUDGE, WARN = 8, 4, 3
LONG = "I will look at this from another side now, because the last result did not help me at all: attempt "


def scored(results: list[str], arguments: list[str] | None = None, said: list[str] | None = None) -> float:
    talk = Talk()
    for turn, result in enumerate(results):
        talk.does(result, *([arguments[turn]] if arguments else []), **({"said": said[turn]} if said else {}))
    return max(talk.scores)


@pytest.mark.parametrize(
    "results, arguments, least, most",
    [
        (["same"] * 4, None, WARN, NUDGE - 0.1),
        (["same"] * 9, None, STOP, STOP + 1),
        (["same"] * 8, None, NUDGE, STOP - 0.1),
        ([f"page {n}" for n in range(90)], None, 0, NUDGE - 0.1),
        (["a", "b"] * 6, None, STOP, 20),
        (["a", "b", "c", "d"] * 4, None, STOP, 20),
        ([f"step {n % 30}" for n in range(45)], [f'{{"n": {n % 30}}}' for n in range(45)], STOP, 20),
        (["ok"] * 60, [f'{{"cmd": "edit {n}"}}' for n in range(60)], 0, 0),
        ([""] * 60, [f'{{"cmd": "mv {n}.txt {n}.md"}}' for n in range(60)], 0, 0),
        (["ok"] * 12, ['{"a": 1, "b": 2}', '{"b":2,"a":1}'] * 6, STOP, 20),
        ([r for n in range(40) for r in (f"{50 - n} failed", f"edited {n}")],
         [a for n in range(40) for a in ('{"cmd": "pytest"}', f'{{"edit": {n}}}')], 0, WARN),
        ([f'{{"status": "running", "done": {n}}}' for n in range(90)], None, 0, NUDGE - 0.1),
        ([f'{{"ok": true, "messageId": "a42ecb89a1{n:04d}ff", "ts": "2025-11-06T10:23:{n:02d}Z"}}' for n in range(12)], None, STOP, 20),
        ([f"Error: timed out after {n}.31s (request 5f2acba8-ac59-1b72-1238-75158ae22f{n:02d})" for n in range(10)], None, STOP, 20),
        (["bash: foo: command not found"] * 12, [f'{{"cmd": "foo --try {n}"}}' for n in range(12)], STOP, 20),
    ],
    ids=[
        "four times is warned about", "nine times is the stop", "eight times is not yet", "polling with news is healthy",
        "cycles of two", "cycles of four", "cycles of thirty", "batch edits are healthy", "silent commands are healthy",
        "spacing and key order do not hide a repeat", "edit and test is healthy", "a poll that gets on is healthy",
        "ids and times do not hide a repeat", "durations do not hide a failure", "the same failure whatever is tried",
    ],
)  # fmt: skip
def test_the_score(results, arguments, least, most):
    assert least <= scored(results, arguments) <= most


def test_an_agent_that_thinks_differently_each_time_is_given_longer():
    thinking = scored(["same"] * 11, said=[f"{LONG}{'x' * n}" for n in range(11)])
    frozen = scored(["same"] * 9, said=[LONG] * 9)
    assert thinking < STOP <= frozen


def test_a_poll_that_waits_is_never_stopped_however_long_it_goes_on():
    talk = Talk(seconds=30)
    for _ in range(30):
        talk.does('{"status": "running"}')
    assert max(talk.scores) < STOP


def test_a_poll_of_two_calls_that_waits_in_one_of_them_is_given_time_too():
    talk = Talk()
    for turn in range(40):
        talk.seconds = 60 if turn % 2 else 1
        talk.does("" if turn % 2 == 0 else "running", '{"cmd": "sleep 60"}' if turn % 2 == 0 else '{"cmd": "status"}')
    assert max(talk.scores) < 20 and talk.scores[15] < STOP


def test_slow_answers_are_no_pauses():
    talk = Talk(seconds=30)
    for _ in range(10):
        for conversation in talk.session.talks.values():
            conversation.answered_at = talk.now + 29
        talk.does("same")
    assert max(talk.scores) >= STOP


def test_calls_side_by_side_do_not_repeat_one_another():
    talk = Talk()
    for turn in range(6):
        calls = [
            {"id": f"c{turn}{n}", "type": "function", "function": {"name": "f", "arguments": f'{{"n": {turn}}}'}}
            for n in range(5)
        ]
        results = [{"role": "tool", "tool_call_id": one["id"], "content": f"row {turn}"} for one in calls]
        talk.history = [*talk.history, {"role": "assistant", "content": None, "tool_calls": calls}, *results]
        talk.observe()
    assert max(talk.scores) == 0


def test_a_new_turn_of_the_user_starts_afresh():
    talk = Talk()
    for _ in range(6):
        talk.does("same")
    talk.history = [
        *talk.history,
        {"role": "assistant", "content": "I am stuck."},
        {"role": "user", "content": "Try the other host."},
    ]
    standing = talk.observe()
    assert standing.spoken and standing.score == 0


def test_a_prompt_that_is_repeated_after_every_result_does_not():
    talk = Talk()
    for _ in range(9):
        talk.number += 1
        talk.history = talk.history + step(talk.number, "same") + [talk.history[1]]
        talk.observe()
    assert talk.scores[-1] >= STOP


def test_auto_replies_are_a_loop_and_a_person_who_says_go_on_is_none():
    echo, person = Talk(), Talk()
    for turn in range(10):
        echo.says(
            f"I will now look up the reservation and update it. Starting {turn}.",
            "Please proceed to the next step using your best judgment.",
        )
        person.says(f"Chapter {turn}: " + " ".join(f"word{turn}{n}" for n in range(30)), "continue")
    assert echo.scores[-1] >= STOP > person.scores[-1]


def test_text_agents_loop_too():
    talk = Talk()
    for _ in range(10):
        talk.says("Let me list the files.\n```\nls\n```", "no such file")
    assert talk.scores[-1] >= STOP


def test_text_agents_that_get_on_are_healthy():
    talk = Talk()
    for turn in range(60):
        talk.says(
            f"Next.\n```\nsed -i s/a/b/ file{turn}\n```",
            "Your command ran successfully and did not produce any output.",
        )
    assert max(talk.scores) == 0


def test_the_same_request_again_and_again_is_a_storm_once_it_was_answered():
    talk = Talk()
    talk.does("a")
    for _ in range(9):
        for conversation in talk.session.talks.values():
            conversation.answered_at = talk.now + 1
        talk.observe()
    assert talk.scores[-1] >= STOP


def test_retries_of_what_failed_are_none():
    talk = Talk()
    talk.does("a")
    for _ in range(20):
        talk.observe()
    assert max(talk.scores) == 0


def test_a_session_that_starts_the_same_sub_agent_over_and_over_is_a_loop_and_a_fan_out_is_none():
    storm, fan = Session(id="root", source="", started_at=NOW), Session(id="root", source="", started_at=NOW)
    for number in range(30):
        ladder.spawned(fan, parsed(opening("the same task")), now=NOW)
        ladder.spawned(storm, parsed(opening("the same task")), now=NOW + number)
        storm.talks[0].answered_at = NOW + number + 0.5
    assert fan.talks[0].score == 0 and storm.talks[0].score >= STOP


def test_a_side_call_in_the_same_session_does_not_make_the_history_look_repeated():
    talk = Talk()
    for turn in range(14):
        talk.does(f"result {turn}", json.dumps({"q": turn}))
        ladder.observe(talk.session, parsed([{"role": "user", "content": "Give this chat a title."}]), now=talk.now)
    assert talk.does("another", "{}").score == 0


def test_a_loop_goes_on_through_compaction():
    talk = Talk()
    for _ in range(5):
        talk.does("same")
    before = talk.scores[-1]
    talk.history = [*opening("Summary so far."), *talk.history[-4:]]
    after = talk.does("same").score
    assert after > before


def test_what_happened_before_a_restart_cannot_stop_anybody_by_itself():
    talk = Talk()
    for turn in range(40):
        talk.history = talk.history + step(turn, "same")
    assert talk.observe().score < NUDGE
    for _ in range(6):
        talk.does("same")
    assert talk.scores[-1] >= STOP


def test_a_chain_of_answers_that_the_provider_keeps_is_followed():
    session, talk = Session(id="s", source="", started_at=NOW), loop_guard.begun()
    for turn in range(12):
        body = {
            "model": "m",
            "previous_response_id": f"resp_{turn}",
            "input": [{"type": "function_call_output", "call_id": f"c{turn}", "output": "same"}],
        }
        standing = ladder.observe(session, responses.parse(json.dumps(body).encode()), now=NOW + turn, talk=talk)
        talk.pending = (ladder.loops.turn_digests.call_of(f"c{turn + 1}", "bash", '{"cmd": "ls"}'),)
    assert standing.score >= STOP


def test_a_result_that_is_marked_as_an_error_counts_as_one():
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "go"}]}
    session = Session(id="s", source="", started_at=NOW)
    for turn in range(12):
        body["messages"] += [
            {"role": "assistant", "content": [{"type": "tool_use", "id": f"t{turn}", "name": "f", "input": {"try": turn}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": f"t{turn}", "is_error": True, "content": "Nope"}]},
        ]  # fmt: skip
        standing = ladder.observe(session, messages.parse(json.dumps(body).encode()), now=NOW + turn)
    assert standing.score >= STOP


def test_new_steps_take_the_score_down_again():
    assert Talk().does("x").score == 0
    talk = Talk()
    for result in ["same"] * 5 + [f"new {n}" for n in range(10)]:
        talk.does(result, json.dumps({"cmd": result}))
    assert talk.scores[-1] == 0


def test_conversations_and_records_are_bounded():
    session = Session(id="s", source="", started_at=NOW)
    for number in range(50):
        ladder.observe(session, parsed(opening(f"task {number}") + step(number, "x")), now=NOW)
    assert len(session.talks) == ladder.CONVERSATIONS_MAX
    talk = Talk()
    for turn in range(300):
        talk.does(f"r{turn}", json.dumps({"n": f"q{turn}"}))
    (conversation,) = talk.session.talks.values()
    assert conversation.memory.size <= 8 * RECORDS_MAX * 12


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "content": "orphan"},
        {"role": "assistant", "tool_calls": "nonsense"},
        {"role": "assistant", "tool_calls": [1, None, {"function": 7}]},
        {"role": "assistant", "tool_calls": None, "content": None},
        {"role": "tool", "tool_call_id": 7, "content": [{"type": "text", "text": "x"}]},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}, 7]},
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": {}, "arguments": {"n": 10**40}}}]},
        {"role": "user", "content": [10**40]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[" * 300 + "]" * 300}}]},
        {"role": "assistant", "content": "``` ``` ```"},
        {"role": "user", "is_error": {"what": 1}, "content": ""},
    ],
)
def test_odd_histories_do_not_break_the_guard(message):
    session = Session(id="s", source="", started_at=NOW)
    for tail in ([], [{"role": "tool", "content": "x"}], [{"role": "user", "content": "x"}]):
        assert ladder.observe(session, parsed([*opening(), message, *tail]), now=NOW).score >= 0


def test_a_call_that_is_no_text_does_not_break_the_guard():
    raw = b'{"model":"a","messages":[{"role":"user"},{"role":"user"},{"role":"assistant","tool_calls":[{"function":{"name":"\xff"}}]},{"role":"tool","content":"x"}]}'
    assert ladder.observe(Session(id="s", source="", started_at=NOW), chat.parse(raw), now=NOW).score == 0


WORDS = st.sampled_from(["", "ok", "error: no", "page 1", "page 2", "x" * 2000])
TURNS = st.lists(st.tuples(st.sampled_from(["call", "say", "user", "cut"]), WORDS, WORDS), max_size=25)


@settings(max_examples=60, deadline=None)
@given(TURNS)
def test_whatever_is_sent_the_score_stays_in_its_bounds(turns):
    talk = Talk()
    for kind, one, other in turns:
        if kind == "call":
            talk.does(one, json.dumps({"q": other}))
        elif kind == "say":
            talk.says(one, other)
        elif kind == "user":
            talk.history = [*talk.history, {"role": "user", "content": one}]
            talk.observe()
        else:
            talk.history = [*talk.history[:2], *talk.history[-2:]]
            talk.observe()
    assert all(0 <= score <= loop_guard.SCORE_MAX for score in talk.scores)


@pytest.mark.parametrize(
    "result",
    [
        '{"success": true, "error": null}',
        "src/a.py: 0 errors, 0 warnings",
        "No results found.",
        "Build finished without errors.",
        "Output: done\nError: (none)\nExit Code: 0\nSignal: (none)",
    ],
)
def test_success_that_mentions_failure_is_none(result):
    assert scored([result] * 40, [f'{{"path": "file{n}.py"}}' for n in range(40)]) < NUDGE


@pytest.mark.parametrize(
    "words, replies",
    [
        (lambda n: f"Chapter {n}. " + " ".join(f"w{n}x{k}" for k in range(40)), lambda n: "continue"),
        (lambda n: f"Question {n}: what is {n} plus {n}? Please answer with a number.", lambda n: str(2 * n)),
        (lambda n: f"Question {n}: which of these is right? A, B, C or D?", lambda n: "ABCD"[n % 4]),
        (lambda n: "OK, I have noted the value of the sensor down for you now.", lambda n: f"temperature {20 + n / 10} degrees"),
        (lambda n: "I will now read the next file of the list.\n<read_file>", lambda n: f"[file {n}] " + " ".join(f"line{n}y{k}" for k in range(20))),
    ],
    ids=["a story told on", "sums", "a quiz", "readings", "a text agent without fences that gets on"],
)  # fmt: skip
def test_people_and_programs_that_say_something_new_are_healthy(words, replies):
    talk = Talk()
    for turn in range(60):
        talk.says(words(turn), replies(turn))
    assert max(talk.scores) < NUDGE


def _answered(talk: Talk) -> None:
    for conversation in talk.session.talks.values():
        conversation.answered_at = talk.now + 0.5


def test_batch_work_under_one_session_is_healthy():
    talk = Talk()
    for number in range(80):
        talk.history = [
            {"role": "user", "content": f"Document {number}: {'x' * number} " + "Classify the document above. " * 20}
        ]
        talk.observe()
        _answered(talk)
    assert max(talk.scores) < NUDGE


def test_many_judges_of_one_transcript_are_healthy():
    talk = Talk()
    transcript = opening()[1:] + step(1, "x") + [{"role": "user", "content": "What do you think of this?"}]
    for number in range(20):
        talk.history = [{"role": "system", "content": f"You are judge {number}."}, *transcript]
        talk.observe()
        _answered(talk)
    assert max(talk.scores) < NUDGE


def test_a_probe_that_says_the_same_for_ever_is_warned_about_at_most():
    talk = Talk(seconds=1)
    talk.history = [{"role": "user", "content": "ping"}]
    for _ in range(200):
        talk.observe()
        _answered(talk)
    assert WARN <= max(talk.scores) < NUDGE


@pytest.mark.parametrize("instructions", [{}, {"instructions": "You are an agent."}])
def test_in_a_chain_of_answers_only_what_repeats_itself_is_a_loop(instructions):
    def asked(turn: int, output: str) -> Any:
        item = {"type": "function_call_output", "call_id": f"c{turn}", "output": output}
        body = {"model": "m", "previous_response_id": f"resp_{turn}", "input": [item], **instructions}
        return responses.parse(json.dumps(body).encode())

    for outputs, looping in (([f"file {n}" for n in range(60)], False), (["same"] * 12, True)):
        session, talk = Session(id="s", source="", started_at=NOW), loop_guard.begun()
        for turn, output in enumerate(outputs):
            standing = ladder.observe(session, asked(turn, output), now=NOW + turn, talk=talk)
            arguments = '{"cmd": "ls"}' if looping else f'{{"n": {turn}}}'
            talk.pending = (loop_guard.turn_digests.call_of(f"c{turn + 1}", "bash", arguments),)
            talk.answered_at = NOW + turn + 0.5
        assert (standing.score >= STOP) == looping, standing.score


def test_pictures_are_told_apart_by_where_they_lie():
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "go"}]}
    session = Session(id="s", source="", started_at=NOW)
    for turn in range(14):
        picture = {"type": "image", "source": {"type": "url", "url": f"https://example.com/{turn}.png"}}
        body["messages"] += [
            {"role": "assistant", "content": [{"type": "tool_use", "id": f"t{turn}", "name": "screenshot", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": f"t{turn}", "content": [picture]}]},
        ]  # fmt: skip
        standing = ladder.observe(session, messages.parse(json.dumps(body).encode()), now=NOW + turn)
    assert standing.score < NUDGE


def test_agents_that_are_given_the_same_task_keep_their_own_ledgers():
    session = Session(id="s", source="", started_at=NOW)
    histories = [opening() for _ in range(4)]
    for turn in range(20):
        for number, history in enumerate(histories):
            histories[number] = history + step(100 * number + turn, f"r{turn}", json.dumps({"n": turn}))
            standing = ladder.observe(session, parsed(histories[number]), now=NOW + turn)
            assert standing.score == 0
    assert len(session.talks) == 4


def test_a_harness_that_numbers_its_own_turns_does_not_hide_a_loop():
    talk = Talk()
    for turn in range(12):
        talk.number += 1
        note = f"This is step {turn} of 50. Remember to keep going until the task is finished."
        talk.history = talk.history + step(talk.number, "same") + [{"role": "user", "content": note}]
        talk.observe()
    assert talk.scores[-1] >= STOP


def test_a_note_that_an_agent_adds_to_every_result_does_not_hide_a_loop():
    talk = Talk()
    for turn in range(12):
        left = (
            f"<system-reminder>\n<total_tokens>{14978073 - 977 * turn} tokens left</total_tokens>\n</system-reminder>"
        )
        talk.does(f"tool-output-42\n\n{left}")
    assert talk.scores[-1] >= STOP
