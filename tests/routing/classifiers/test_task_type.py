"""Task types: matched by rules, learned from declared ones."""

from gateway.routing.classifiers.task_type import TaskTypeClassifier, match_task_type
from gateway.values.catalog import TaskType
from tests.routing.test_classify import features_of

CODE, CHAT = TaskType(name="code", tools=frozenset({"bash"}), words=frozenset({"debug"})), TaskType(name="chat")


def test_task_types_are_learned_from_declared_ones():
    classifier, types = TaskTypeClassifier(), (CODE, CHAT)
    code, chat, between = [1.0, 0.2, 0.0], [-1.0, 0.1, 0.3], [0.0, 1.0, 0.0]

    def classify(vector, declared=None):
        matched, confidence = match_task_type(features_of("zzz"), types, declared)
        return classifier.classify(matched, confidence, types, "org", lambda: vector, declared)

    assert classify(code) == (None, 0.0)
    for _ in range(25):
        classify(code, "code")
        classify(chat, "chat")
    assert classify(code)[0] is CODE and classify(chat)[0] is CHAT
    assert classify(code)[1] > 0.9
    # Equally far from both is "other"; organizations do not share what they learned.
    assert classify([0.0, 0.0, -1.0])[0] is None or classify(between)[1] < 0.9
    matched, _ = classifier.classify(None, 0.0, types, "another", lambda: code, None)
    assert matched is None
