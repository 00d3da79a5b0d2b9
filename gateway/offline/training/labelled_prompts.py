"""Labelled prompts: JSON Lines (gz or not), one prompt and its outcomes a line."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from ...feeds import json_lines

# LLMRouter's eight small sets count as one source, as in published figures.
_MERGED_SOURCE = "llmrouter"
# Names of aggregates over sources.
_AGGREGATES = ("pooled", "macro")


class LabelledPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt and its outcomes.

    small_score, large_score: in [0, 1]
    family: weighted together; None: any
    group: shared by rows of the same question, which must not be split
    split: train or test, where the data has it
    context: what came with the prompt: tools as JSON, starter code
    scores: of every logged model, in [0, 1]
    costs_usd: logged cost of each model's answer
    """

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
        """The source that the row counts under."""
        if self.source in _AGGREGATES:
            return f"{self.source} (source)"
        return _MERGED_SOURCE if self.source.startswith(f"{_MERGED_SOURCE}_") else self.source

    @property
    def tools_json(self) -> str:
        """The context, "" for none."""
        return self.context or ""

    @property
    def family_or_any(self) -> str:
        """The family that the row is weighted with."""
        return self.family or "any"

    @property
    def logged_scores(self) -> Mapping[str, float]:
        """The scores that were logged."""
        return {model: score for model, score in (self.scores or {}).items() if score is not None}

    @property
    def question_id(self) -> str:
        """The id that rows of the same question share."""
        return self.group or self.id


_LINE_DECODER = msgspec.json.Decoder(LabelledPrompt)
_DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError)


def load(paths: Iterable[Path]) -> Sequence[LabelledPrompt]:
    """The rows of files, and of .jsonl and .jsonl.gz files in folders, by name.

    Raises ValueError with file and line for an invalid row, and without data.
    """
    rows = list(json_lines.read(paths, lambda line, _: _LINE_DECODER.decode(line), "a labelled prompt", _DECODE_ERRORS))
    if not rows:
        raise ValueError("no labelled prompt in the data")
    return rows


def by_source(rows: Iterable[LabelledPrompt]) -> dict[str, list[LabelledPrompt]]:
    """The rows of each source."""
    rows_by_source: dict[str, list[LabelledPrompt]] = {}
    for row in rows:
        rows_by_source.setdefault(row.source_group, []).append(row)
    return dict(sorted(rows_by_source.items()))


def split_test_train(rows: Iterable[LabelledPrompt]) -> tuple[list[LabelledPrompt], list[LabelledPrompt]]:
    """(rows to score, rows to train on).

    Where a source has rows of another split beside those marked train, the latter are labels and are not scored.
    """
    scored: list[LabelledPrompt] = []
    training: list[LabelledPrompt] = []
    for source_rows in by_source(rows).values():
        testing = [row for row in source_rows if row.split != "train"]
        scored += testing or source_rows
        training += [row for row in source_rows if row.split == "train"] if testing else []
    return scored, training
