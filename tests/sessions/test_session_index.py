"""Tests of finding the session of a request."""

from gateway.dialects.answer_fingerprint import AnswerFingerprint
from gateway.sessions.lineage import History
from gateway.sessions.session_index import SessionIndex
from gateway.values.budget import Measure
from tests.sessions.agent_requests import NOW, AgentCaller, chat_request, opening_messages, tool_step


def answer_with_call(number: int, text: str = "") -> AnswerFingerprint:
    return AnswerFingerprint(text, f"call_{number:08d}", 'bash{"cmd":"ls"}')


def test_a_growing_history_is_one_session():
    agents, history = AgentCaller(), opening_messages()
    ids = set()
    for turn in range(6):
        ids.add(agents.ask(history).id)
        history = history + tool_step(turn, f"result {turn}")
    assert len(ids) == 1


def test_parallel_identical_jobs_are_separated_by_their_answers():
    agents = AgentCaller()
    first = agents.ask(opening_messages(), answer=answer_with_call(1)).id
    second = agents.ask(opening_messages(), answer=answer_with_call(2)).id
    third = agents.ask(opening_messages(), answer=answer_with_call(3)).id
    assert len({first, second, third}) == 3
    assert agents.ask(opening_messages() + tool_step(2, "x")).id == second
    assert agents.ask(opening_messages() + tool_step(3, "x")).id == third
    assert agents.ask(opening_messages() + tool_step(1, "x")).id == first


def test_indistinguishable_jobs_keep_their_number_of_sessions():
    agents = AgentCaller()
    opened = {agents.ask(opening_messages(), answer=answer_with_call(1)).id for _ in range(3)}
    continued = {agents.ask(opening_messages() + tool_step(1, "x"), answer=answer_with_call(2)).id for _ in range(3)}
    assert opened == continued and len(opened) == 3


def test_an_answer_without_its_call_id_matches_by_its_text():
    agents = AgentCaller()
    first = agents.ask(opening_messages(), answer=AnswerFingerprint("I will look at the parser first."))
    agents.ask(opening_messages(), answer=AnswerFingerprint("I will run the tests first."))
    history_answer = {"role": "assistant", "content": "I will look at the parser first. Then we see."}
    assert agents.ask([*opening_messages(), history_answer, {"role": "user", "content": "continue"}]).id == first.id


def test_a_fork_inherits_the_amounts_of_its_path():
    agents, trunk = AgentCaller(), opening_messages() + tool_step(1, "a")
    agents.ask(opening_messages())
    agents.ask(trunk)
    agents.ask(trunk + tool_step(2, "left"))
    fork = agents.ask(trunk + tool_step(2, "a different result", '{"cmd": "other"}'))
    assert fork.inherited[Measure.calls] == 2


def test_a_retry_stays_in_its_session():
    agents, history = AgentCaller(), opening_messages()
    agents.ask(history)
    longer = history + tool_step(1, "a")
    assert agents.ask(longer).id == agents.ask(longer).id


def test_an_opening_marked_as_a_retry_stays_in_its_session():
    agents = AgentCaller()
    assert agents.ask(opening_messages()).id == agents.ask(opening_messages(), repeated=True).id


def test_a_rewritten_system_prompt_and_elided_results_keep_the_session():
    agents = AgentCaller()
    first = agents.ask(opening_messages(), answer=answer_with_call(1)).id
    history = opening_messages() + tool_step(1, "a long listing " * 50)
    assert (
        agents.ask([{"role": "system", "content": "Now it is 12:01."}, *history[1:]], answer=answer_with_call(2)).id
        == first
    )
    history[-1] = {**history[-1], "content": "Old output omitted."}
    history += tool_step(2, "b")
    assert agents.ask([{"role": "system", "content": "Now it is 12:02."}, *history[1:]]).id == first


def test_a_compacted_history_matches_by_its_newest_answer():
    agents, history = AgentCaller(), opening_messages()
    for turn in range(5):
        agents.ask(history, answer=answer_with_call(turn))
        history = history + tool_step(turn, f"result {turn}", text=f"Step {turn}")
    session = agents.ask(history, answer=answer_with_call(5))
    compacted = [*opening_messages("Summary of the conversation so far: ..."), *tool_step(5, "new")]
    assert agents.ask(compacted).id == session.id == "s1"


def test_shared_few_shot_examples_do_not_merge_sessions():
    agents = AgentCaller()
    examples = [
        *opening_messages("an example"),
        {"role": "assistant", "content": "The answer that every request shows as an example."},
    ]
    ids = {
        agents.ask([*examples, {"role": "user", "content": f"task {n}"}], answer=answer_with_call(n)).id
        for n in range(5)
    }
    assert len(ids) == 5


def test_keys_never_share_a_session():
    agents = AgentCaller()
    session = agents.ask(opening_messages(), key="k1", answer=answer_with_call(1))
    other = agents.ask(opening_messages() + tool_step(1, "a"), key="k2")
    assert session.id != other.id
    assert agents.sessions.get_or_create("k1", "x", "h", now=NOW) is not agents.sessions.get_or_create(
        "k2", "x", "h", now=NOW
    )


def test_content_parts_separate_sessions():
    agents = AgentCaller()
    for text in ("alice", "carol"):
        agents.ask([{"role": "user", "content": [{"type": "text", "text": text}]}])
    history = [{"role": "user", "content": [{"type": "text", "text": "alice"}]}, *tool_step(1, "x")]
    assert agents.ask(history).id == "s1"


def test_a_sub_agent_joins_the_tree_of_its_parent():
    index = SessionIndex()
    root = index.get_or_create("k", "root", "h", now=NOW)
    child = index.get_or_create("k", "child", "h", now=NOW, parent="root")
    grandchild = index.get_or_create("k", "grandchild", "h", now=NOW, parent="child")
    assert (grandchild.root, grandchild.depth, grandchild.ancestors) == ("root", 2, (child, root))
    assert root.child_count == child.child_count == 1


def test_an_unknown_parent_is_the_root_until_the_caller_names_one():
    index = SessionIndex()
    assert index.get_or_create("k", "child", "h", now=NOW, parent="elsewhere").root == "elsewhere"
    grandchild = index.get_or_create("k", "grandchild", "h", now=NOW, parent="between", root="top")
    assert (grandchild.root, [ancestor.id for ancestor in grandchild.ancestors]) == ("top", ["between", "top"])


def test_memory_is_bounded():
    index = SessionIndex(capacity=10, nodes=20)
    for number in range(50):
        index.get_or_create("k", f"s{number}", "header", now=NOW)
        session = index.match_or_create(
            "k", History("k", chat_request(opening_messages(str(number)))), fresh_id=f"f{number}", now=NOW
        )
        index.record_answer("k", session, session.newest_digest, answer_with_call(number))
    assert len(index) == 30


def test_equal_openings_are_bounded_per_digest():
    agents = AgentCaller()
    opened = [agents.ask(opening_messages(), answer=answer_with_call(number)).id for number in range(100)]
    continued = [agents.ask(opening_messages() + tool_step(number, "x")).id for number in range(100)]
    assert [number for number in range(100) if continued[number] == opened[number]] == list(range(84, 100))


def test_an_agent_that_repeats_its_calls_as_text_stays_one_session():
    agents, history = AgentCaller(), opening_messages()
    ids = set()
    for turn in range(4):
        ids.add(agents.ask(history, answer=answer_with_call(turn)).id)
        text = f"Calling tools: [{{'id': 'call_{turn:08d}', 'function': 'bash'}}]"
        history = [
            *history,
            {"role": "assistant", "content": text},
            {"role": "user", "content": f"Observation: {turn}"},
        ]
    assert len(ids) == 1
