"""Whose request this is."""

from gateway.dialects.answer_fingerprint import AnswerFingerprint
from gateway.sessions.lineage import History
from gateway.sessions.session_index import SessionIndex
from gateway.values.budget import Measure
from tests.sessions.agent_requests import NOW, AgentCaller, chat_request, opening_messages, tool_step


def heard(number: int, text: str = "") -> AnswerFingerprint:
    return AnswerFingerprint(text, f"call_{number:08d}", 'bash{"cmd":"ls"}')


def test_a_growing_history_is_one_session():
    agents, history = AgentCaller(), opening_messages()
    ids = set()
    for turn in range(6):
        ids.add(agents.ask(history).id)
        history = history + tool_step(turn, f"result {turn}")
    assert len(ids) == 1


def test_parallel_identical_jobs_are_told_apart_by_what_was_answered():
    agents = AgentCaller()
    first = agents.ask(opening_messages(), answer=heard(1)).id
    second = agents.ask(opening_messages(), answer=heard(2)).id
    third = agents.ask(opening_messages(), answer=heard(3)).id
    assert len({first, second, third}) == 3
    assert agents.ask(opening_messages() + tool_step(2, "x")).id == second
    assert agents.ask(opening_messages() + tool_step(3, "x")).id == third
    assert agents.ask(opening_messages() + tool_step(1, "x")).id == first


def test_jobs_that_cannot_be_told_apart_stay_as_many_as_they_are():
    agents = AgentCaller()
    opened = {agents.ask(opening_messages(), answer=heard(1)).id for _ in range(3)}
    continued = {agents.ask(opening_messages() + tool_step(1, "x"), answer=heard(2)).id for _ in range(3)}
    assert opened == continued and len(opened) == 3


def test_an_answer_whose_id_is_not_echoed_still_tells_by_its_words():
    agents = AgentCaller()
    one = agents.ask(opening_messages(), answer=AnswerFingerprint("I will look at the parser first."))
    agents.ask(opening_messages(), answer=AnswerFingerprint("I will run the tests first."))
    said = {"role": "assistant", "content": "I will look at the parser first. Then we see."}
    assert agents.ask([*opening_messages(), said, {"role": "user", "content": "go on"}]).id == one.id


def test_a_fork_inherits_what_its_path_had_taken():
    agents, trunk = AgentCaller(), opening_messages() + tool_step(1, "a")
    agents.ask(opening_messages())
    agents.ask(trunk)
    agents.ask(trunk + tool_step(2, "left"))
    fork = agents.ask(trunk + tool_step(2, "a different result", '{"cmd": "other"}'))
    assert fork.inherited[Measure.calls] == 2


def test_a_retry_of_the_same_request_stays_in_its_session():
    agents, history = AgentCaller(), opening_messages()
    agents.ask(history)
    longer = history + tool_step(1, "a")
    assert agents.ask(longer).id == agents.ask(longer).id


def test_a_retried_opening_is_the_same_session_where_the_caller_says_so():
    agents = AgentCaller()
    assert agents.ask(opening_messages()).id == agents.ask(opening_messages(), repeated=True).id


def test_a_rewritten_system_prompt_and_elided_results_do_not_hide_the_session():
    agents = AgentCaller()
    first = agents.ask(opening_messages(), answer=heard(1)).id
    history = opening_messages() + tool_step(1, "a long listing " * 50)
    assert agents.ask([{"role": "system", "content": "Now it is 12:01."}, *history[1:]], answer=heard(2)).id == first
    history[-1] = {**history[-1], "content": "Old output omitted."}
    history += tool_step(2, "b")
    assert agents.ask([{"role": "system", "content": "Now it is 12:02."}, *history[1:]]).id == first


def test_a_compacted_history_is_known_by_its_newest_answer():
    agents, history = AgentCaller(), opening_messages()
    for turn in range(5):
        agents.ask(history, answer=heard(turn))
        history = history + tool_step(turn, f"result {turn}", said=f"Step {turn}")
    one = agents.ask(history, answer=heard(5))
    compacted = [*opening_messages("Summary of the conversation so far: ..."), *tool_step(5, "new")]
    assert agents.ask(compacted).id == one.id == "s1"


def test_demonstrations_that_all_requests_begin_with_tie_nothing_together():
    agents = AgentCaller()
    shown = [
        *opening_messages("an example"),
        {"role": "assistant", "content": "The answer that every request shows as an example."},
    ]
    ids = {agents.ask([*shown, {"role": "user", "content": f"task {n}"}], answer=heard(n)).id for n in range(5)}
    assert len(ids) == 5


def test_keys_never_share_a_session():
    agents = AgentCaller()
    one = agents.ask(opening_messages(), key="k1", answer=heard(1))
    other = agents.ask(opening_messages() + tool_step(1, "a"), key="k2")
    assert one.id != other.id
    assert agents.sessions.get_or_create("k1", "x", "h", now=NOW) is not agents.sessions.get_or_create(
        "k2", "x", "h", now=NOW
    )


def test_parts_tell_sessions_apart():
    agents = AgentCaller()
    for text in ("alice", "carol"):
        agents.ask([{"role": "user", "content": [{"type": "text", "text": text}]}])
    history = [{"role": "user", "content": [{"type": "text", "text": "alice"}]}, *tool_step(1, "x")]
    assert agents.ask(history).id == "s1"


def test_a_sub_agent_belongs_to_the_tree_of_whoever_started_it():
    book = SessionIndex()
    root = book.get_or_create("k", "root", "h", now=NOW)
    child = book.get_or_create("k", "child", "h", now=NOW, parent="root")
    grandchild = book.get_or_create("k", "grandchild", "h", now=NOW, parent="child")
    assert (grandchild.root, grandchild.depth, grandchild.ancestors) == ("root", 2, (child, root))
    assert root.child_count == child.child_count == 1


def test_a_parent_that_another_gateway_served_is_taken_for_the_head_until_the_caller_says_who_is():
    book = SessionIndex()
    assert book.get_or_create("k", "child", "h", now=NOW, parent="elsewhere").root == "elsewhere"
    told = book.get_or_create("k", "grandchild", "h", now=NOW, parent="between", root="top")
    assert (told.root, [one.id for one in told.ancestors]) == ("top", ["between", "top"])


def test_memory_is_bounded():
    book = SessionIndex(capacity=10, nodes=20)
    for number in range(50):
        book.get_or_create("k", f"s{number}", "header", now=NOW)
        session = book.match_or_create(
            "k", History("k", chat_request(opening_messages(str(number)))), fresh_id=f"f{number}", now=NOW
        )
        book.record_answer("k", session, session.newest_digest, heard(number))
    assert len(book) == 30


def test_equal_openings_do_not_pile_up_at_one_place():
    agents = AgentCaller()
    for _ in range(100):
        agents.ask(opening_messages())
    assert max(len(nodes) for nodes in agents.sessions._nodes_by_digest.values()) <= 16


def test_an_agent_that_tells_its_calls_again_in_words_stays_one_session():
    agents, history = AgentCaller(), opening_messages()
    ids = set()
    for turn in range(4):
        ids.add(agents.ask(history, answer=heard(turn)).id)
        said = f"Calling tools: [{{'id': 'call_{turn:08d}', 'function': 'bash'}}]"
        history = [
            *history,
            {"role": "assistant", "content": said},
            {"role": "user", "content": f"Observation: {turn}"},
        ]
    assert len(ids) == 1
