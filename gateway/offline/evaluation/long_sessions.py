"""Long healthy sessions, 100 to 500 calls, which nobody has published: real steps on a made-up skeleton.

What is called and what comes back is taken from real healthy sessions wherever a kind of work allows it. Made up are
the order, the file edits, the tests' counts, the status of jobs and the time between polls: what honest work repeats.
The same seed and data give the same sessions.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import orjson

from .recordings import Message, Recording
from .session_material import Material, Pair, gathered

_CALLS_MIN, _CALLS_MAX = 100, 500


def made(recordings: Iterable[Recording], count: int, seed: int) -> Iterator[Recording]:
    """So many sessions, the kinds in turn. Raises ValueError if the data holds too little to make them of."""
    material = gathered(recordings)
    chance = random.Random(seed)
    for number in range(count):
        kind, make = list(_KINDS.items())[number % len(_KINDS)]
        script = Script(chance, f"Please take care of this {kind} job, case {number}, and report when it is done.")
        make(script, material, chance.randint(_CALLS_MIN, _CALLS_MAX))
        script.say("All of it is done.")
        yield Recording(
            id=f"long/{seed}/{number}",
            source=f"long: {kind}",
            label="healthy",
            messages=tuple(script.messages),
            synthetic=True,
        )


class Script:
    """A session while it is written. Every agent has its manner: one says nothing beside its calls, one always the
    same, one what it thinks."""

    def __init__(self, chance: random.Random, ask: str) -> None:
        self.chance = chance
        self.calls = 0
        self.manner = chance.choice(("silent", "formal", "thinking"))
        self.messages: list[Message] = [
            {"role": "system", "content": "You are a careful agent. Work on your own until the job is done."},
            {"role": "user", "content": ask},
        ]

    def say(self, text: str) -> None:
        """An answer without calls."""
        self.calls += 1
        self.messages.append({"role": "assistant", "content": text})

    def call(self, name: str, arguments: Message | str, result: str, said: str = "", gap: float | None = None) -> None:
        """One call and its result; `gap` is how long the agent waited before it, in seconds."""
        self.calls += 1
        text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
        identity = f"call_{self.chance.getrandbits(64):016x}"
        request = {"id": identity, "type": "function", "function": {"name": name, "arguments": text}}
        spoken = {"silent": "", "formal": f"Next: {name}.", "thinking": said}[self.manner]
        answer: Message = {"role": "assistant", "content": spoken, "tool_calls": [request]}
        self.messages.append(answer if gap is None else {**answer, "_gap": gap})
        self.messages.append({"role": "tool", "tool_call_id": identity, "content": result})

    def pair(self, pair: Pair) -> None:
        """A real call with its real result."""
        self.call(pair.name, pair.arguments, pair.result, pair.said)


def _refactoring(script: Script, material: Material, until: int) -> None:
    """Read, edit, test over many files; failing tests take several edits; guidelines are read again now and then."""
    chance = script.chance
    files = {f"src/{pair.name}.py": pair.result for pair in _some(material, chance, chance.randint(12, 40))}
    files |= {f"src/module_{number}.py": chance.choice(material.pages) for number in range(8)}
    guidelines = chance.choice(material.pages)
    updated = chance.choice(("File updated", "The file {path} has been updated.", "ok"))
    suite = chance.choice(("tests/", ""))
    total = chance.randint(40, 400)
    while script.calls < until:
        path = chance.choice(list(files))
        if chance.random() < 0.08:
            script.call("read_file", {"path": "CONTRIBUTING.md"}, guidelines, "Let me check the guidelines again.")
        if chance.random() < 0.15:
            script.pair(chance.choice(chance.choice(material.tools)))
        if chance.random() < 0.7:
            script.call("read_file", {"path": path}, files[path], f"I look at {path} first.")
        failures = chance.randint(1, 5) if chance.random() < 0.35 else 0
        failure = ""
        for attempt in range(failures + 1):
            _edit(script, files, path, updated)
            if attempt == failures:
                failure = ""
            elif not failure or chance.random() < 0.8:
                left, right = chance.randint(0, 99), chance.randint(0, 99)
                test = f"tests/test_{path[4:-3]}.py::test_{chance.randint(1, 9)}"
                failure = f"FAILED {test} - AssertionError: assert {left} == {right}\n"
            target = suite or f"tests/test_{path[4:-3]}.py"
            script.call("run_tests", {"target": target}, _tests(failure, total, chance), "Now the tests.")
            if failure and chance.random() < 0.5:
                script.call("read_file", {"path": path}, files[path], "That is not what I expected; I read it again.")


def _edit(script: Script, files: dict[str, str], path: str, updated: str) -> None:
    chance = script.chance
    lines = files[path].splitlines() or [""]
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(lines))
        old, lines[place] = lines[place], f"{lines[place][:200].split('  # rev')[0]}  # rev {script.calls}"
        script.call("edit_file", {"path": path, "old": old, "new": lines[place]}, updated.format(path=path))
    files[path] = "\n".join(lines)


def _tests(failure: str, total: int, chance: random.Random) -> str:
    seconds = chance.uniform(1, 9)
    if failure:
        return f"{failure}1 failed, {total - 1} passed in {seconds:.2f}s"
    return f"{total} passed in {seconds:.2f}s"


def _crawl(script: Script, material: Material, until: int) -> None:
    """The pages of searches until an empty one, and one tool for many items, some of which have nothing."""
    chance = script.chance
    nothing = chance.choice(("[]", "", "No results found.", '{"items": []}'))
    number = 0
    while script.calls < until:
        number += 1
        if chance.random() < 0.5:
            pages = chance.sample(material.pages, min(chance.randint(5, 30), len(material.pages)))
            for page, text in enumerate([*pages, nothing], 1):
                script.call(
                    "search", {"query": f"topic {number}", "page": page}, text, f"Page {page} of topic {number}."
                )
        else:
            tool = material.tools[min(int(chance.expovariate(0.3)), len(material.tools) - 1)]
            for pair in chance.sample(tool, min(chance.randint(5, 30), len(tool))):
                empty = chance.random() < 0.12
                script.call(pair.name, pair.arguments, nothing if empty else pair.result, pair.said)
        script.call("save_note", {"about": f"topic {number}", "text": chance.choice(material.pages)[:300]}, "ok")


def _polls(script: Script, material: Material, until: int) -> None:
    """Jobs that take their time: the same question and the same answer, half a minute to five minutes apart."""
    chance = script.chance
    number = 0
    while script.calls < until:
        number += 1
        job, pause, steady = f"job-{chance.getrandbits(32):08x}", chance.uniform(30, 300), chance.random() < 0.6
        script.call("start_job", {"task": f"build {number}"}, f'{{"job_id": "{job}", "status": "queued"}}')
        script_of = ["queued"] * chance.randint(0, 6) + ["running"] * chance.randint(4, 25)
        script_of.append("failed" if chance.random() < 0.15 else "succeeded")
        for place, status in enumerate(script_of):
            progress = f', "progress": {100 * place // len(script_of)}' if not steady and status == "running" else ""
            answer = f'{{"status": "{status}"{progress}}}'
            gap = min(300.0, max(30.0, pause * chance.uniform(0.9, 1.1)))
            script.call("get_status", {"job_id": job}, answer, "Still running, I will wait.", gap=gap)
        script.call("get_log", {"job_id": job}, chance.choice(material.pages), "Let me see what it did.")
        for pair in _some(material, chance, chance.randint(1, 6)):
            script.pair(pair)


def _batch(script: Script, material: Material, until: int) -> None:
    """One edit for each of many records, each answered alike; a check now and then; a retry where the tool is busy."""
    chance = script.chance
    pair = chance.choice(material.neutral)
    check, number = chance.choice(("ok", "{number} records, 0 errors")), 0
    while script.calls < until:
        number += 1
        arguments = _varied(pair, number)
        if chance.random() < 0.03:
            script.call(pair.name, arguments, "Error: 429 Too Many Requests, retry later")
        script.call(pair.name, arguments, pair.result, f"Record {number} next.")
        if chance.random() < 0.06:
            script.call("check_records", {}, check.format(number=number), "A check in between.")


def _varied(pair: Pair, number: int) -> Message | str:
    """The real arguments for another record."""
    try:
        arguments = orjson.loads(pair.arguments)
    except orjson.JSONDecodeError:
        arguments = {"of": pair.arguments}
    if not isinstance(arguments, dict):
        arguments = {"of": arguments}
    texts = [name for name, value in arguments.items() if isinstance(value, str)]
    return {**arguments, (texts[0] if texts else "record"): f"{arguments[texts[0]] if texts else 'record'} {number}"}


def _support(script: Script, material: Material, until: int) -> None:
    """One desk, many customers: whole real talks, each of another task."""
    _sessions(script, material.talks, until)


def _errands(script: Script, material: Material, until: int) -> None:
    """One user, many tasks: whole real sessions, each of another task."""
    _sessions(script, material.errands, until)


def _sessions(script: Script, sources: Mapping[str, Sequence[Recording]], until: int) -> None:
    chance, tasks = script.chance, set()
    names = sorted(sources)
    recordings = sources[chance.choices(names, [len(sources[name]) for name in names])[0]]
    for recording in chance.sample(recordings, len(recordings)):
        if script.calls >= until:
            return
        if recording.task in tasks:
            continue
        tasks.add(recording.task)
        live = set(recording.places)
        for place, message in enumerate(recording.messages):
            if message["role"] == "system" or message.get("_demo"):
                continue
            asked = place in live and recording.messages[place - 1]["role"] == "user"
            # A person reads and types before the next call.
            script.messages.append({**message, "_gap": chance.uniform(10, 90)} if asked else message)
        script.calls += len(live)


def _scroll(script: Script, material: Material, until: int) -> None:
    """The same call, the next screen; at the end of a page the agent may try once more."""
    chance = script.chance
    number = 0
    while script.calls < until:
        number += 1
        screens = chance.sample(material.pages, min(chance.randint(5, 40), len(material.pages)))
        script.call("open_page", {"url": f"https://example.org/{number}"}, screens[0], "The next document.")
        for screen in screens[1:]:
            script.call("scroll_down", {}, screen, "Further down.")
        for _ in range(chance.randint(1, 2)):
            script.call("scroll_down", {}, "End of page.", "Further down.")


def _mixed(script: Script, material: Material, until: int) -> None:
    """Several kinds, one after the other."""
    chapters = script.chance.sample((_refactoring, _crawl, _polls, _batch, _scroll), 4)
    begun = script.calls
    for number, make in enumerate(chapters, 1):
        make(script, material, begun + (until - begun) * number // len(chapters))


def _some(material: Material, chance: random.Random, count: int) -> list[Pair]:
    return [chance.choice(chance.choice(material.tools)) for _ in range(count)]


_KINDS: dict[str, Callable[[Script, Material, int], None]] = {
    "refactoring": _refactoring,
    "crawl": _crawl,
    "polls": _polls,
    "batch edits": _batch,
    "support chats": _support,
    "errands": _errands,
    "scrolls": _scroll,
    "mixed": _mixed,
}
