"""Whose request this is."""

from gateway.dialects.answer_fingerprint import Beginning
from gateway.sessions.lineage import History
from gateway.sessions.session_index import SessionBook
from gateway.values.budget import Measure
from tests.sessions.agent_requests import NOW, Agents, opening, parsed, step


def heard(number: int, text: str = "") -> Beginning:
    return Beginning(text, f"call_{number:08d}", 'bash{"cmd":"ls"}')


def test_a_growing_history_is_one_session():
    agents, history = Agents(), opening()
    ids = set()
    for turn in range(6):
        ids.add(agents.ask(history).id)
        history = history + step(turn, f"result {turn}")
    assert len(ids) == 1


def test_parallel_identical_jobs_are_told_apart_by_what_was_answered():
    agents = Agents()
    first = agents.ask(opening(), answer=heard(1)).id
    second = agents.ask(opening(), answer=heard(2)).id
    third = agents.ask(opening(), answer=heard(3)).id
    assert len({first, second, third}) == 3
    assert agents.ask(opening() + step(2, "x")).id == second
    assert agents.ask(opening() + step(3, "x")).id == third
    assert agents.ask(opening() + step(1, "x")).id == first


def test_jobs_that_cannot_be_told_apart_stay_as_many_as_they_are():
    agents = Agents()
    opened = {agents.ask(opening(), answer=heard(1)).id for _ in range(3)}
    continued = {agents.ask(opening() + step(1, "x"), answer=heard(2)).id for _ in range(3)}
    assert opened == continued and len(opened) == 3


def test_an_answer_whose_id_is_not_echoed_still_tells_by_its_words():
    agents = Agents()
    one = agents.ask(opening(), answer=Beginning("I will look at the parser first."))
    agents.ask(opening(), answer=Beginning("I will run the tests first."))
    said = {"role": "assistant", "content": "I will look at the parser first. Then we see."}
    assert agents.ask([*opening(), said, {"role": "user", "content": "go on"}]).id == one.id


def test_a_fork_inherits_what_its_path_had_taken():
    agents, trunk = Agents(), opening() + step(1, "a")
    agents.ask(opening())
    agents.ask(trunk)
    agents.ask(trunk + step(2, "left"))
    fork = agents.ask(trunk + step(2, "a different result", '{"cmd": "other"}'))
    assert fork.inherited[Measure.calls] == 2


def test_a_retry_of_the_same_request_stays_in_its_session():
    agents, history = Agents(), opening()
    agents.ask(history)
    longer = history + step(1, "a")
    assert agents.ask(longer).id == agents.ask(longer).id


def test_a_retried_opening_is_the_same_session_where_the_caller_says_so():
    agents = Agents()
    assert agents.ask(opening()).id == agents.ask(opening(), repeated=True).id


def test_a_rewritten_system_prompt_and_elided_results_do_not_hide_the_session():
    agents = Agents()
    first = agents.ask(opening(), answer=heard(1)).id
    history = opening() + step(1, "a long listing " * 50)
    assert agents.ask([{"role": "system", "content": "Now it is 12:01."}, *history[1:]], answer=heard(2)).id == first
    history[-1] = {**history[-1], "content": "Old output omitted."}
    history += step(2, "b")
    assert agents.ask([{"role": "system", "content": "Now it is 12:02."}, *history[1:]]).id == first


def test_a_compacted_history_is_known_by_its_newest_answer():
    agents, history = Agents(), opening()
    for turn in range(5):
        agents.ask(history, answer=heard(turn))
        history = history + step(turn, f"result {turn}", said=f"Step {turn}")
    one = agents.ask(history, answer=heard(5))
    compacted = [*opening("Summary of the conversation so far: ..."), *step(5, "new")]
    assert agents.ask(compacted).id == one.id == "s1"


def test_demonstrations_that_all_requests_begin_with_tie_nothing_together():
    agents = Agents()
    shown = [
        *opening("an example"),
        {"role": "assistant", "content": "The answer that every request shows as an example."},
    ]
    ids = {agents.ask([*shown, {"role": "user", "content": f"task {n}"}], answer=heard(n)).id for n in range(5)}
    assert len(ids) == 5


def test_keys_never_share_a_session():
    agents = Agents()
    one = agents.ask(opening(), key="k1", answer=heard(1))
    other = agents.ask(opening() + step(1, "a"), key="k2")
    assert one.id != other.id
    assert agents.book.named("k1", "x", "h", now=NOW) is not agents.book.named("k2", "x", "h", now=NOW)


def test_parts_tell_sessions_apart():
    agents = Agents()
    for text in ("alice", "carol"):
        agents.ask([{"role": "user", "content": [{"type": "text", "text": text}]}])
    history = [{"role": "user", "content": [{"type": "text", "text": "alice"}]}, *step(1, "x")]
    assert agents.ask(history).id == "s1"


def test_a_sub_agent_belongs_to_the_tree_of_whoever_started_it():
    book = SessionBook()
    root = book.named("k", "root", "h", now=NOW)
    child = book.named("k", "child", "h", now=NOW, parent="root")
    grandchild = book.named("k", "grandchild", "h", now=NOW, parent="child")
    assert (grandchild.root, grandchild.depth, grandchild.above) == ("root", 2, (child, root))
    assert root.children == child.children == 1


def test_a_parent_that_another_gateway_served_is_taken_for_the_head_until_the_caller_says_who_is():
    book = SessionBook()
    assert book.named("k", "child", "h", now=NOW, parent="elsewhere").root == "elsewhere"
    told = book.named("k", "grandchild", "h", now=NOW, parent="between", root="top")
    assert (told.root, [one.id for one in told.above]) == ("top", ["between", "top"])


def test_memory_is_bounded():
    book = SessionBook(capacity=10, nodes=20)
    for number in range(50):
        book.named("k", f"s{number}", "header", now=NOW)
        session = book.inferred("k", History("k", parsed(opening(str(number)))), fresh_id=f"f{number}", now=NOW)
        book.answered("k", session, session.tip, heard(number))
    assert len(book) == 30


def test_equal_openings_do_not_pile_up_at_one_place():
    agents = Agents()
    for _ in range(100):
        agents.ask(opening())
    assert max(len(nodes) for nodes in agents.book._nodes.values()) <= 16


def test_an_agent_that_tells_its_calls_again_in_words_stays_one_session():
    agents, history = Agents(), opening()
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
