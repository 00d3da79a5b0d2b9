"""Tests of what the loop guard counts as a loop and what it does not."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import chat, messages, responses
from gateway.sessions import ladder, loop_guard, turn_digests
from gateway.sessions.conversation_memory import RECORDS_MAX
from gateway.sessions.session_index import Session
from tests.sessions.agent_requests import NOW, LoopConversation, chat_request, opening_messages, tool_step

STOP, NUDGE, WARN = 8, 4, 3
LONG = "I will look at this from another side now, because the last result did not help me at all: attempt "


def max_score(results: list[str], arguments: list[str] | None = None, texts: list[str] | None = None) -> float:
    conversation = LoopConversation()
    for turn, result in enumerate(results):
        conversation.tool_turn(
            result, *([arguments[turn]] if arguments else []), **({"text": texts[turn]} if texts else {})
        )
    return max(conversation.scores)


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
        "four repeats warn", "nine repeats stop", "eight repeats do not stop", "polling with new results is healthy",
        "cycles of two", "cycles of four", "cycles of thirty", "batch edits are healthy", "silent commands are healthy",
        "spacing and key order do not hide a repeat", "edit and test is healthy", "an advancing poll is healthy",
        "ids and times do not hide a repeat", "durations do not hide a failure", "the same failure of varying calls stops",
    ],
)  # fmt: skip
def test_the_score_stays_in_its_range(results, arguments, least, most):
    assert least <= max_score(results, arguments) <= most


def test_new_text_beside_repeated_calls_delays_the_stop():
    new_text = max_score(["same"] * 11, texts=[f"{LONG}{'x' * n}" for n in range(11)])
    same_text = max_score(["same"] * 9, texts=[LONG] * 9)
    assert new_text < STOP <= same_text


def test_a_poll_with_pauses_is_never_stopped():
    conversation = LoopConversation(seconds=30)
    for _ in range(30):
        conversation.tool_turn('{"status": "running"}')
    assert max(conversation.scores) < STOP


def test_a_poll_that_pauses_in_one_of_its_two_calls_is_stopped_late():
    conversation = LoopConversation()
    for turn in range(40):
        conversation.gap_seconds = 60 if turn % 2 else 1
        conversation.tool_turn(
            "" if turn % 2 == 0 else "running", '{"cmd": "sleep 60"}' if turn % 2 == 0 else '{"cmd": "status"}'
        )
    assert max(conversation.scores) < 20 and conversation.scores[15] < STOP


def test_slow_answers_do_not_count_as_pauses():
    conversation = LoopConversation(seconds=30)
    for _ in range(10):
        for scored in conversation.session.conversations_by_key.values():
            scored.answered_at = conversation.now + 29
        conversation.tool_turn("same")
    assert max(conversation.scores) >= STOP


def test_parallel_calls_do_not_repeat_one_another():
    conversation = LoopConversation()
    for turn in range(6):
        calls = [
            {"id": f"c{turn}{n}", "type": "function", "function": {"name": "f", "arguments": f'{{"n": {turn}}}'}}
            for n in range(5)
        ]
        results = [{"role": "tool", "tool_call_id": call["id"], "content": f"row {turn}"} for call in calls]
        conversation.history = [
            *conversation.history,
            {"role": "assistant", "content": None, "tool_calls": calls},
            *results,
        ]
        conversation.observe()
    assert max(conversation.scores) == 0


def test_new_user_input_resets_the_score():
    conversation = LoopConversation()
    for _ in range(6):
        conversation.tool_turn("same")
    conversation.history = [
        *conversation.history,
        {"role": "assistant", "content": "I am stuck."},
        {"role": "user", "content": "Try the other host."},
    ]
    loop_state = conversation.observe()
    assert loop_state.has_new_user_input and loop_state.score == 0


def test_a_prompt_repeated_after_every_result_does_not_reset_the_score():
    conversation = LoopConversation()
    for _ in range(9):
        conversation.step_number += 1
        conversation.history = (
            conversation.history + tool_step(conversation.step_number, "same") + [conversation.history[1]]
        )
        conversation.observe()
    assert conversation.scores[-1] >= STOP


def test_auto_replies_are_a_loop_and_a_person_saying_continue_is_not():
    echo, person = LoopConversation(), LoopConversation()
    for turn in range(10):
        echo.text_turn(
            f"I will now look up the reservation and update it. Starting {turn}.",
            "Please proceed to the next step using your best judgment.",
        )
        person.text_turn(f"Chapter {turn}: " + " ".join(f"word{turn}{n}" for n in range(30)), "continue")
    assert echo.scores[-1] >= STOP > person.scores[-1]


def test_a_text_agent_that_repeats_itself_is_stopped():
    conversation = LoopConversation()
    for _ in range(10):
        conversation.text_turn("Let me list the files.\n```\nls\n```", "no such file")
    assert conversation.scores[-1] >= STOP


def test_text_agents_with_new_actions_are_healthy():
    conversation = LoopConversation()
    for turn in range(60):
        conversation.text_turn(
            f"Next.\n```\nsed -i s/a/b/ file{turn}\n```",
            "Your command ran successfully and did not produce any output.",
        )
    assert max(conversation.scores) == 0


def test_resending_an_answered_request_is_a_loop():
    conversation = LoopConversation()
    conversation.tool_turn("a")
    for _ in range(9):
        for scored in conversation.session.conversations_by_key.values():
            scored.answered_at = conversation.now + 1
        conversation.observe()
    assert conversation.scores[-1] >= STOP


def test_retries_of_a_failed_request_are_not_a_loop():
    conversation = LoopConversation()
    conversation.tool_turn("a")
    for _ in range(20):
        conversation.observe()
    assert max(conversation.scores) == 0


def test_starting_the_same_sub_agent_repeatedly_is_a_loop_and_a_fan_out_is_not():
    storm, fan = Session(id="root", source="", started_at=NOW), Session(id="root", source="", started_at=NOW)
    for number in range(30):
        ladder.record_spawn(fan, chat_request(opening_messages("the same task")), now=NOW)
        ladder.record_spawn(storm, chat_request(opening_messages("the same task")), now=NOW + number)
        storm.conversations_by_key[0].answered_at = NOW + number + 0.5
    assert fan.conversations_by_key[0].score == 0 and storm.conversations_by_key[0].score >= STOP


def test_a_side_call_in_the_same_session_does_not_raise_the_score():
    conversation = LoopConversation()
    for turn in range(14):
        conversation.tool_turn(f"result {turn}", json.dumps({"q": turn}))
        ladder.observe(
            conversation.session,
            chat_request([{"role": "user", "content": "Give this chat a title."}]),
            now=conversation.now,
        )
    assert conversation.tool_turn("another", "{}").score == 0


def test_a_loop_continues_through_compaction():
    conversation = LoopConversation()
    for _ in range(5):
        conversation.tool_turn("same")
    before = conversation.scores[-1]
    conversation.history = [*opening_messages("Summary so far."), *conversation.history[-4:]]
    after = conversation.tool_turn("same").score
    assert after > before


def test_history_from_before_a_restart_alone_does_not_stop_a_session():
    conversation = LoopConversation()
    for turn in range(40):
        conversation.history = conversation.history + tool_step(turn, "same")
    assert conversation.observe().score < NUDGE
    for _ in range(6):
        conversation.tool_turn("same")
    assert conversation.scores[-1] >= STOP


def test_a_conversation_stored_by_the_provider_is_scored():
    session, conversation = Session(id="s", source="", started_at=NOW), loop_guard.new_conversation()
    for turn in range(12):
        body = {
            "model": "m",
            "previous_response_id": f"resp_{turn}",
            "input": [{"type": "function_call_output", "call_id": f"c{turn}", "output": "same"}],
        }
        loop_state = ladder.observe(
            session, responses.parse(json.dumps(body).encode()), now=NOW + turn, conversation=conversation
        )
        conversation.pending_calls = (turn_digests.digest_call(f"c{turn + 1}", "bash", '{"cmd": "ls"}'),)
    assert loop_state.score >= STOP


def test_a_result_marked_as_an_error_counts_as_a_failure():
    body: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "go"}]}
    session = Session(id="s", source="", started_at=NOW)
    for turn in range(12):
        body["messages"] += [
            {"role": "assistant", "content": [{"type": "tool_use", "id": f"t{turn}", "name": "f", "input": {"try": turn}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": f"t{turn}", "is_error": True, "content": "Nope"}]},
        ]  # fmt: skip
        loop_state = ladder.observe(session, messages.parse(json.dumps(body).encode()), now=NOW + turn)
    assert loop_state.score >= STOP


def test_new_steps_lower_the_score():
    assert LoopConversation().tool_turn("x").score == 0
    conversation = LoopConversation()
    for result in ["same"] * 5 + [f"new {n}" for n in range(10)]:
        conversation.tool_turn(result, json.dumps({"cmd": result}))
    assert conversation.scores[-1] == 0


def test_conversations_and_records_are_bounded():
    session = Session(id="s", source="", started_at=NOW)
    for number in range(50):
        ladder.observe(session, chat_request(opening_messages(f"task {number}") + tool_step(number, "x")), now=NOW)
    assert len(session.conversations_by_key) == ladder.CONVERSATIONS_MAX
    long = LoopConversation()
    for turn in range(300):
        long.tool_turn(f"r{turn}", json.dumps({"n": f"q{turn}"}))
    (scored,) = long.session.conversations_by_key.values()
    assert scored.memory.size_bytes <= 8 * RECORDS_MAX * 12


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
def test_malformed_histories_do_not_break_the_guard(message):
    session = Session(id="s", source="", started_at=NOW)
    for tail in ([], [{"role": "tool", "content": "x"}], [{"role": "user", "content": "x"}]):
        assert ladder.observe(session, chat_request([*opening_messages(), message, *tail]), now=NOW).score >= 0


def test_a_call_that_is_not_utf8_does_not_break_the_guard():
    raw = b'{"model":"a","messages":[{"role":"user"},{"role":"user"},{"role":"assistant","tool_calls":[{"function":{"name":"\xff"}}]},{"role":"tool","content":"x"}]}'
    assert ladder.observe(Session(id="s", source="", started_at=NOW), chat.parse(raw), now=NOW).score == 0


WORDS = st.sampled_from(["", "ok", "error: no", "page 1", "page 2", "x" * 2000])
TURNS = st.lists(st.tuples(st.sampled_from(["call", "say", "user", "cut"]), WORDS, WORDS), max_size=25)


@settings(max_examples=60, deadline=None)
@given(TURNS)
def test_the_score_stays_in_its_bounds_for_any_conversation(turns):
    conversation = LoopConversation()
    for kind, first, second in turns:
        if kind == "call":
            conversation.tool_turn(first, json.dumps({"q": second}))
        elif kind == "say":
            conversation.text_turn(first, second)
        elif kind == "user":
            conversation.history = [*conversation.history, {"role": "user", "content": first}]
            conversation.observe()
        else:
            conversation.history = [*conversation.history[:2], *conversation.history[-2:]]
            conversation.observe()
    assert all(0 <= score <= loop_guard.SCORE_MAX for score in conversation.scores)


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
def test_success_that_mentions_failure_is_not_a_failure(result):
    assert max_score([result] * 40, [f'{{"path": "file{n}.py"}}' for n in range(40)]) < NUDGE


@pytest.mark.parametrize(
    "words, replies",
    [
        (lambda n: f"Chapter {n}. " + " ".join(f"w{n}x{k}" for k in range(40)), lambda n: "continue"),
        (lambda n: f"Question {n}: what is {n} plus {n}? Please answer with a number.", lambda n: str(2 * n)),
        (lambda n: f"Question {n}: which of these is right? A, B, C or D?", lambda n: "ABCD"[n % 4]),
        (lambda n: "OK, I have noted the value of the sensor down for you now.", lambda n: f"temperature {20 + n / 10} degrees"),
        (lambda n: "I will now read the next file of the list.\n<read_file>", lambda n: f"[file {n}] " + " ".join(f"line{n}y{k}" for k in range(20))),
    ],
    ids=["a continued story", "sums", "a quiz", "readings", "a text agent without fences"],
)  # fmt: skip
def test_conversations_with_new_input_or_answers_are_healthy(words, replies):
    conversation = LoopConversation()
    for turn in range(60):
        conversation.text_turn(words(turn), replies(turn))
    assert max(conversation.scores) < NUDGE


def _record_answer(conversation: LoopConversation) -> None:
    for scored in conversation.session.conversations_by_key.values():
        scored.answered_at = conversation.now + 0.5


def test_batch_work_under_one_session_is_healthy():
    conversation = LoopConversation()
    for number in range(80):
        conversation.history = [
            {"role": "user", "content": f"Document {number}: {'x' * number} " + "Classify the document above. " * 20}
        ]
        conversation.observe()
        _record_answer(conversation)
    assert max(conversation.scores) < NUDGE


def test_many_judges_of_one_transcript_are_healthy():
    conversation = LoopConversation()
    transcript = (
        opening_messages()[1:] + tool_step(1, "x") + [{"role": "user", "content": "What do you think of this?"}]
    )
    for number in range(20):
        conversation.history = [{"role": "system", "content": f"You are judge {number}."}, *transcript]
        conversation.observe()
        _record_answer(conversation)
    assert max(conversation.scores) < NUDGE


def test_an_endlessly_repeated_probe_is_warned_at_most():
    conversation = LoopConversation(seconds=1)
    conversation.history = [{"role": "user", "content": "ping"}]
    for _ in range(200):
        conversation.observe()
        _record_answer(conversation)
    assert WARN <= max(conversation.scores) < NUDGE


@pytest.mark.parametrize("instructions", [{}, {"instructions": "You are an agent."}])
def test_a_conversation_stored_by_the_provider_loops_only_if_it_repeats(instructions):
    def continuation(turn: int, output: str) -> Any:
        item = {"type": "function_call_output", "call_id": f"c{turn}", "output": output}
        body = {"model": "m", "previous_response_id": f"resp_{turn}", "input": [item], **instructions}
        return responses.parse(json.dumps(body).encode())

    for outputs, looping in (([f"file {n}" for n in range(60)], False), (["same"] * 12, True)):
        session, conversation = Session(id="s", source="", started_at=NOW), loop_guard.new_conversation()
        for turn, output in enumerate(outputs):
            loop_state = ladder.observe(session, continuation(turn, output), now=NOW + turn, conversation=conversation)
            arguments = '{"cmd": "ls"}' if looping else f'{{"n": {turn}}}'
            conversation.pending_calls = (turn_digests.digest_call(f"c{turn + 1}", "bash", arguments),)
            conversation.answered_at = NOW + turn + 0.5
        assert (loop_state.score >= STOP) == looping, loop_state.score


def test_images_are_distinguished_by_their_url():
    body: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "go"}]}
    session = Session(id="s", source="", started_at=NOW)
    for turn in range(14):
        picture = {"type": "image", "source": {"type": "url", "url": f"https://example.com/{turn}.png"}}
        body["messages"] += [
            {"role": "assistant", "content": [{"type": "tool_use", "id": f"t{turn}", "name": "screenshot", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": f"t{turn}", "content": [picture]}]},
        ]  # fmt: skip
        loop_state = ladder.observe(session, messages.parse(json.dumps(body).encode()), now=NOW + turn)
    assert loop_state.score < NUDGE


def test_agents_with_the_same_task_are_scored_separately():
    session = Session(id="s", source="", started_at=NOW)
    histories = [opening_messages() for _ in range(4)]
    for turn in range(20):
        for number, history in enumerate(histories):
            histories[number] = history + tool_step(100 * number + turn, f"r{turn}", json.dumps({"n": turn}))
            loop_state = ladder.observe(session, chat_request(histories[number]), now=NOW + turn)
            assert loop_state.score == 0
    assert len(session.conversations_by_key) == 4


def test_numbered_harness_prompts_do_not_hide_a_loop():
    conversation = LoopConversation()
    for turn in range(12):
        conversation.step_number += 1
        note = f"This is step {turn} of 50. Remember to keep going until the task is finished."
        conversation.history = (
            conversation.history + tool_step(conversation.step_number, "same") + [{"role": "user", "content": note}]
        )
        conversation.observe()
    assert conversation.scores[-1] >= STOP


def test_a_reminder_in_every_result_does_not_hide_a_loop():
    conversation = LoopConversation()
    for turn in range(12):
        left = (
            f"<system-reminder>\n<total_tokens>{14978073 - 977 * turn} tokens left</total_tokens>\n</system-reminder>"
        )
        conversation.tool_turn(f"tool-output-42\n\n{left}")
    assert conversation.scores[-1] >= STOP
