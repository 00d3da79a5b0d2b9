"""Generates long healthy sessions of 100 to 500 calls from real steps.

No such sessions are published, so the skeleton is synthetic. Calls and results are taken from real healthy sessions
wherever a kind of work allows it. Synthetic are the order, the file edits, test counts, job status and time between
polls: what honest work repeats. The same seed and data give the same sessions.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import orjson

from .recordings import RecordedMessage, Recording
from .session_material import RecordedCall, SessionMaterial, gather_material

_MIN_CALLS, _MAX_CALLS = 100, 500


def generate_sessions(recordings: Iterable[Recording], count: int, seed: int) -> Iterator[Recording]:
    """`count` sessions, the kinds in turn. Raises ValueError for too little material."""
    material = gather_material(recordings)
    randomness = random.Random(seed)
    for number in range(count):
        kind, generate = list(_GENERATORS.items())[number % len(_GENERATORS)]
        script = SessionBuilder(
            randomness, f"Please take care of this {kind} job, case {number}, and report when it is done."
        )
        generate(script, material, randomness.randint(_MIN_CALLS, _MAX_CALLS))
        script.add_answer("All of it is done.")
        yield Recording(
            id=f"long/{seed}/{number}",
            source=f"long: {kind}",
            label="healthy",
            messages=tuple(script.messages),
            synthetic=True,
        )


class SessionBuilder:
    """Builds one session.

    narration: what the agent writes beside its calls: nothing, the same sentence, or its thoughts
    """

    def __init__(self, randomness: random.Random, request: str) -> None:
        self.rng = randomness
        self.call_count = 0
        self.narration = randomness.choice(("silent", "formal", "thinking"))
        self.messages: list[RecordedMessage] = [
            {"role": "system", "content": "You are a careful agent. Work on your own until the job is done."},
            {"role": "user", "content": request},
        ]

    def add_answer(self, text: str) -> None:
        """Add an answer without calls."""
        self.call_count += 1
        self.messages.append({"role": "assistant", "content": text})

    def add_call(
        self, name: str, arguments: RecordedMessage | str, result: str, thought: str = "", gap: float | None = None
    ) -> None:
        """Add one call and its result.

        `gap`: how long the agent waited before it, seconds.
        """
        self.call_count += 1
        text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
        call_id = f"call_{self.rng.getrandbits(64):016x}"
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": text}}
        narrated = {"silent": "", "formal": f"Next: {name}.", "thinking": thought}[self.narration]
        answer: RecordedMessage = {"role": "assistant", "content": narrated, "tool_calls": [call]}
        self.messages.append(answer if gap is None else {**answer, "_gap": gap})
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": result})

    def add_recorded_call(self, pair: RecordedCall) -> None:
        """Add a real call with its real result."""
        self.add_call(pair.name, pair.arguments, pair.result, pair.text)


def _refactoring(script: SessionBuilder, material: SessionMaterial, until: int) -> None:
    """Read, edit, test over many files; failing tests take several edits."""
    randomness = script.rng
    files = {
        f"src/{pair.name}.py": pair.result for pair in _sample_calls(material, randomness, randomness.randint(12, 40))
    }
    files |= {f"src/module_{number}.py": randomness.choice(material.long_results) for number in range(8)}
    guidelines = randomness.choice(material.long_results)
    confirmation = randomness.choice(("File updated", "The file {path} has been updated.", "ok"))
    suite = randomness.choice(("tests/", ""))
    total = randomness.randint(40, 400)
    while script.call_count < until:
        path = randomness.choice(list(files))
        if randomness.random() < 0.08:
            script.add_call("read_file", {"path": "CONTRIBUTING.md"}, guidelines, "Let me check the guidelines again.")
        if randomness.random() < 0.15:
            script.add_recorded_call(randomness.choice(randomness.choice(material.calls_by_tool)))
        if randomness.random() < 0.7:
            script.add_call("read_file", {"path": path}, files[path], f"I look at {path} first.")
        failures = randomness.randint(1, 5) if randomness.random() < 0.35 else 0
        failure = ""
        for attempt in range(failures + 1):
            _edit_file(script, files, path, confirmation)
            if attempt == failures:
                failure = ""
            elif not failure or randomness.random() < 0.8:
                left, right = randomness.randint(0, 99), randomness.randint(0, 99)
                test = f"tests/test_{path[4:-3]}.py::test_{randomness.randint(1, 9)}"
                failure = f"FAILED {test} - AssertionError: assert {left} == {right}\n"
            target = suite or f"tests/test_{path[4:-3]}.py"
            script.add_call("run_tests", {"target": target}, _test_output(failure, total, randomness), "Now the tests.")
            if failure and randomness.random() < 0.5:
                script.add_call(
                    "read_file", {"path": path}, files[path], "That is not what I expected; I read it again."
                )


def _edit_file(script: SessionBuilder, files: dict[str, str], path: str, confirmation: str) -> None:
    randomness = script.rng
    lines = files[path].splitlines() or [""]
    for _ in range(randomness.randint(1, 3)):
        line_number = randomness.randrange(len(lines))
        old, lines[line_number] = (
            lines[line_number],
            f"{lines[line_number][:200].split('  # rev')[0]}  # rev {script.call_count}",
        )
        script.add_call(
            "edit_file", {"path": path, "old": old, "new": lines[line_number]}, confirmation.format(path=path)
        )
    files[path] = "\n".join(lines)


def _test_output(failure: str, total: int, randomness: random.Random) -> str:
    seconds = randomness.uniform(1, 9)
    if failure:
        return f"{failure}1 failed, {total - 1} passed in {seconds:.2f}s"
    return f"{total} passed in {seconds:.2f}s"


def _crawling(script: SessionBuilder, material: SessionMaterial, until: int) -> None:
    """Pages of searches until an empty one; one tool over many items, some empty."""
    randomness = script.rng
    empty_result = randomness.choice(("[]", "", "No results found.", '{"items": []}'))
    number = 0
    while script.call_count < until:
        number += 1
        if randomness.random() < 0.5:
            pages = randomness.sample(material.long_results, min(randomness.randint(5, 30), len(material.long_results)))
            for page, text in enumerate([*pages, empty_result], 1):
                script.add_call(
                    "search", {"query": f"topic {number}", "page": page}, text, f"Page {page} of topic {number}."
                )
        else:
            calls = material.calls_by_tool[min(int(randomness.expovariate(0.3)), len(material.calls_by_tool) - 1)]
            for pair in randomness.sample(calls, min(randomness.randint(5, 30), len(calls))):
                is_empty = randomness.random() < 0.12
                script.add_call(pair.name, pair.arguments, empty_result if is_empty else pair.result, pair.text)
        script.add_call(
            "save_note", {"about": f"topic {number}", "text": randomness.choice(material.long_results)[:300]}, "ok"
        )


def _polling(script: SessionBuilder, material: SessionMaterial, until: int) -> None:
    """Jobs that take long: the same call and the same answer, 0.5 to 5 minutes apart."""
    randomness = script.rng
    number = 0
    while script.call_count < until:
        number += 1
        job, pause, without_progress = (
            f"job-{randomness.getrandbits(32):08x}",
            randomness.uniform(30, 300),
            randomness.random() < 0.6,
        )
        script.add_call("start_job", {"task": f"build {number}"}, f'{{"job_id": "{job}", "status": "queued"}}')
        statuses = ["queued"] * randomness.randint(0, 6) + ["running"] * randomness.randint(4, 25)
        statuses.append("failed" if randomness.random() < 0.15 else "succeeded")
        for index, status in enumerate(statuses):
            progress = (
                f', "progress": {100 * index // len(statuses)}' if not without_progress and status == "running" else ""
            )
            answer = f'{{"status": "{status}"{progress}}}'
            gap = min(300.0, max(30.0, pause * randomness.uniform(0.9, 1.1)))
            script.add_call("get_status", {"job_id": job}, answer, "Still running, I will wait.", gap=gap)
        script.add_call("get_log", {"job_id": job}, randomness.choice(material.long_results), "Let me see what it did.")
        for pair in _sample_calls(material, randomness, randomness.randint(1, 6)):
            script.add_recorded_call(pair)


def _batch(script: SessionBuilder, material: SessionMaterial, until: int) -> None:
    """One edit for each of many records; a check now and then; retries if busy."""
    randomness = script.rng
    pair = randomness.choice(material.confirmations)
    check, number = randomness.choice(("ok", "{number} records, 0 errors")), 0
    while script.call_count < until:
        number += 1
        arguments = _arguments_for_record(pair, number)
        if randomness.random() < 0.03:
            script.add_call(pair.name, arguments, "Error: 429 Too Many Requests, retry later")
        script.add_call(pair.name, arguments, pair.result, f"Record {number} next.")
        if randomness.random() < 0.06:
            script.add_call("check_records", {}, check.format(number=number), "A check in between.")


def _arguments_for_record(pair: RecordedCall, number: int) -> RecordedMessage | str:
    """The real arguments, changed for another record."""
    try:
        arguments = orjson.loads(pair.arguments)
    except orjson.JSONDecodeError:
        arguments = {"of": pair.arguments}
    if not isinstance(arguments, dict):
        arguments = {"of": arguments}
    texts = [name for name, value in arguments.items() if isinstance(value, str)]
    return {**arguments, (texts[0] if texts else "record"): f"{arguments[texts[0]] if texts else 'record'} {number}"}


def _support(script: SessionBuilder, material: SessionMaterial, until: int) -> None:
    """One support agent, many customers: whole real conversations of different tasks."""
    _append_sessions(script, material.multi_turn_sessions, until)


def _single_turn_tasks(script: SessionBuilder, material: SessionMaterial, until: int) -> None:
    """One user, many tasks: whole real sessions of different tasks."""
    _append_sessions(script, material.single_turn_sessions, until)


def _append_sessions(script: SessionBuilder, sources: Mapping[str, Sequence[Recording]], until: int) -> None:
    randomness, tasks = script.rng, set()
    names = sorted(sources)
    recordings = sources[randomness.choices(names, [len(sources[name]) for name in names])[0]]
    for recording in randomness.sample(recordings, len(recordings)):
        if script.call_count >= until:
            return
        if recording.task in tasks:
            continue
        tasks.add(recording.task)
        live = set(recording.answer_positions)
        for index, message in enumerate(recording.messages):
            if message["role"] == "system" or message.get("_demo"):
                continue
            answers_user = index in live and recording.messages[index - 1]["role"] == "user"
            # A person reads and types before the next call.
            script.messages.append({**message, "_gap": randomness.uniform(10, 90)} if answers_user else message)
        script.call_count += len(live)


def _scrolling(script: SessionBuilder, material: SessionMaterial, until: int) -> None:
    """The same call, the next screen; at the end of a page the agent may repeat it."""
    randomness = script.rng
    number = 0
    while script.call_count < until:
        number += 1
        screens = randomness.sample(material.long_results, min(randomness.randint(5, 40), len(material.long_results)))
        script.add_call("open_page", {"url": f"https://example.org/{number}"}, screens[0], "The next document.")
        for screen in screens[1:]:
            script.add_call("scroll_down", {}, screen, "Further down.")
        for _ in range(randomness.randint(1, 2)):
            script.add_call("scroll_down", {}, "End of page.", "Further down.")


def _mixed(script: SessionBuilder, material: SessionMaterial, until: int) -> None:
    """Several kinds, one after the other."""
    chapters = script.rng.sample((_refactoring, _crawling, _polling, _batch, _scrolling), 4)
    start = script.call_count
    for number, generate in enumerate(chapters, 1):
        generate(script, material, start + (until - start) * number // len(chapters))


def _sample_calls(material: SessionMaterial, randomness: random.Random, count: int) -> list[RecordedCall]:
    return [randomness.choice(randomness.choice(material.calls_by_tool)) for _ in range(count)]


_GENERATORS: dict[str, Callable[[SessionBuilder, SessionMaterial, int], None]] = {
    "refactoring": _refactoring,
    "crawl": _crawling,
    "polls": _polling,
    "batch edits": _batch,
    "support chats": _support,
    "errands": _single_turn_tasks,
    "scrolls": _scrolling,
    "mixed": _mixed,
}
