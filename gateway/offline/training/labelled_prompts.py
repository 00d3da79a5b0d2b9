"""Labelled prompts: JSON Lines (gz or not) -> Labelled. One line is one prompt and what two models made of it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from ...feeds import json_lines

# LLMRouter's eight small sets count as one source, as in the figures that others have published on them.
_MERGED_SOURCE = "llmrouter"
# What all sources together are called.
_AGGREGATES = ("pooled", "macro")


class LabelledPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt. Scores are in [0, 1]; `scores` are those of every model that was logged; `context` is what came with
    the prompt (tools as JSON, starter code); `group` is shared by rows of the same question, which must not be split;
    `split` is train or test where the data says so; `costs_usd` what each model's answer really cost, where logged."""

    id: str
    source: str
    prompt: str
    small_score: float
    large_score: float
    small_model: str = "small"
    large_model: str = "large"
    family: str | None = None
    task: str | None = None
    group: str | None = None
    split: str | None = None
    context: str | None = None
    scores: Mapping[str, float | None] | None = None
    costs_usd: Mapping[str, float | None] | None = None

    def __post_init__(self) -> None:
        for score in (self.small_score, self.large_score):
            if not 0 <= score <= 1:
                raise ValueError("scores are in [0, 1]")

    @property
    def source_group(self) -> str:
        """The source that it counts under."""
        if self.source in _AGGREGATES:
            return f"{self.source} (source)"
        return _MERGED_SOURCE if self.source.startswith(f"{_MERGED_SOURCE}_") else self.source

    @property
    def tools_json(self) -> str:
        """What came with the prompt, "" for nothing."""
        return self.context or ""

    @property
    def family_or_any(self) -> str:
        """The family that it is weighed with."""
        return self.family or "any"

    @property
    def logged_scores(self) -> Mapping[str, float]:
        """The scores that were logged."""
        return {model: score for model, score in (self.scores or {}).items() if score is not None}

    @property
    def question_id(self) -> str:
        """What rows of the same question share."""
        return self.group or self.id


_LINE_DECODER = msgspec.json.Decoder(LabelledPrompt)
_DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError)


def load(paths: Iterable[Path]) -> Sequence[LabelledPrompt]:
    """The rows of files, and of the .jsonl and .jsonl.gz files in folders, in order of name.

    Raises ValueError with file and line for what is no labelled prompt, and for no data at all.
    """
    rows = list(json_lines.read(paths, lambda line, _: _LINE_DECODER.decode(line), "a labelled prompt", _DECODE_ERRORS))
    if not rows:
        raise ValueError("no labelled prompt in the data")
    return rows


def by_source(rows: Iterable[LabelledPrompt]) -> dict[str, list[LabelledPrompt]]:
    """The rows of each source."""
    places: dict[str, list[LabelledPrompt]] = {}
    for row in rows:
        places.setdefault(row.source_group, []).append(row)
    return dict(sorted(places.items()))


def split_test_train(rows: Iterable[LabelledPrompt]) -> tuple[list[LabelledPrompt], list[LabelledPrompt]]:
    """(rows to be scored, rows that may teach): where a source has rows of another split beside those marked train, the
    latter are labels and are not scored."""
    scored: list[LabelledPrompt] = []
    taught: list[LabelledPrompt] = []
    for mine in by_source(rows).values():
        tested = [row for row in mine if row.split != "train"]
        scored += tested or mine
        taught += [row for row in mine if row.split == "train"] if tested else []
    return scored, taught
