"""Turns of phrase that a newcomer has to read twice do not come back. The rule: a noun, then the fact."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Turn of phrase -> what to write instead.
INSTEAD = {
    r"nobody|somebody|anybody": "the noun: no provider, another process, a caller",
    r"\btold\b|\btells\b": "reported, sent, names, returned",
    r"\bheard\b|\bhears\b": "received, read, is notified",
    r"\bwhom\b": "the noun",
    r"\bgo(es)? on\b": "continue, resume",
    r"\blet (it|them|one|this|that|the \w+) go on\b": "resume",
    r"\blies? (with|in|beside|within)\b": "is in, is part of, is stored by",
    r"\bstands? (in|with|beside|alike)\b": "is in, is next to",
    r"\bleft alone\b|\bleaves? \w+ alone\b": "circuit breaker open, not dialled, exempt",
    r"\bknown here\b": "invalid, unknown to the gateway",
    r"\bof late\b": "recent, recently",
    r"\bso nothing is\b": "the consequence: disabled, unpriced",
    r"\bwhat (it|they) took\b": "usage, cost, duration",
    r"\bstreet door\b|\blazy door\b|\bthe door to\b": "adapter, optional import, client",
    r"\bcorridor\b": "pipeline",
    r"\bin silence\b": "silently",
    r"\bhas room\b|\bhave room\b|\bhas no room\b": "has capacity, has budget left",
    r"\b(his|her|their|its|whose) turn\b": "next",
    r"\bthe books? of\b": "state of, index of, estimates of",
    r"\bthe house\b|\ba house\b": "the code base",
    r"\bthe world\b(?! (average|wide))": "the snapshot",
    r"\bnews of\b": "data, readings",
}
_PATTERNS = {phrase: re.compile(phrase, re.IGNORECASE) for phrase in INSTEAD}
# Files with text of others: prompts, licences, recorded answers, this list, and a history that keeps its words.
_EXEMPT = (
    "LICENSE", "NOTICE", "uv.lock", "CHANGELOG.md", "tests/test_wording.py", "tests/dialects/recorded/", "tests/clients/",
    "gateway/feeds/data/", "gateway/routing/prompt_features.py",
)  # fmt: skip
_TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".json", ".lua", ".html", ".css", ""}


def _texts() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [Path(name) for name in listed if not name.startswith(_EXEMPT) and Path(name).suffix in _TEXT]


@pytest.mark.parametrize("phrase", INSTEAD)
def test_a_turn_of_phrase_does_not_come_back(phrase):
    pattern = _PATTERNS[phrase]
    found = []
    for path in _texts():
        try:
            lines = (ROOT / path).read_text("utf-8").splitlines()
        except FileNotFoundError:
            continue
        found += [
            f"{path}:{number}: {line.strip()[:100]}" for number, line in enumerate(lines, 1) if pattern.search(line)
        ]
    assert not found, f"write {INSTEAD[phrase]!r} instead:\n" + "\n".join(found)
