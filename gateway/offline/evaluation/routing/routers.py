"""Who is tried: our scorer, as shipped or corrected by own labels, and what it must beat."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....routing.classifiers.learned import corrected_gain
from ....routing.prompt_features import prompt_features
from ....routing.scorer import Scorer
from ....values.quality import ScorerCorrection
from ...training import calibration
from ...training.calibration import TrainingLabel
from ...training.labelled_prompts import LabelledPrompt, by_source

Array = npt.NDArray[np.float64]
RowIndexes = npt.NDArray[np.intp]

PENSTOCK = "penstock"
# Labels of a source are drawn from the other folds, so that no prompt is scored by what its own outcome taught.
_FOLDS = 5


class RouterScores(NamedTuple):
    """For every prompt: a score (higher wants the frontier more), and the calibrated probability in [0, 1] that the
    small model does not suffice."""

    scores: Array
    frontier_need: Array


Router = Callable[[Sequence[LabelledPrompt]], RouterScores]


def routers(scorer: Scorer, own_labels: int, seed: int, taught: Sequence[LabelledPrompt] = ()) -> Mapping[str, Router]:
    """Ours and the others, by name. `taught` are rows that labels are drawn from before any others."""
    return {
        PENSTOCK: lambda rows: penstock_router(rows, scorer, own_labels, seed, taught),
        "random": lambda rows: _random_scores(len(rows), seed),
        "length": _length_scores,
        "oracle": _oracle_scores,
    }


def penstock_router(
    rows: Sequence[LabelledPrompt], scorer: Scorer, own_labels: int, seed: int, taught: Sequence[LabelledPrompt] = ()
) -> RouterScores:
    """Our scorer; with `own_labels`, corrected in each source by at most so many of its labels: of those that teach, where
    the source has any, else each prompt by labels of other prompts."""
    seen, need = _rows_as_labels(rows, scorer)
    gain = np.array([one.gain for one in seen])
    if not own_labels:
        return RouterScores(gain, need)
    numbers: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        numbers.setdefault(row.source_group, []).append(number)
    labels = {place: _rows_as_labels(mine, scorer)[0] for place, mine in by_source(taught).items()}
    for place, chosen in numbers.items():
        mine = np.array(chosen, np.intp)
        known = labels.get(place)
        found = [seen[one] for one in chosen]
        if known is not None:
            gain[mine], need[mine] = _corrected_by_labels(found, known, own_labels, seed)
        else:
            gain[mine], need[mine] = _cross_validated(found, own_labels, seed)
    return RouterScores(gain, need)


def _rows_as_labels(rows: Sequence[LabelledPrompt], scorer: Scorer) -> tuple[list[TrainingLabel], Array]:
    """Each row as a label, and the scorer's own probability that small does not suffice."""
    found, need = [], []
    for row in rows:
        read = prompt_features(row.prompt, row.tools_json)
        scored = scorer.score(read)
        words = scorer.words_at(scorer.word_indices(read.words))
        found.append(
            TrainingLabel(
                gain=scored.gain,
                small_insufficient=scored.small_insufficient,
                standardized=scorer.standardize(read.dense),
                words=words,
                known_word_share=len(words) / max(1, len(read.words)),
                small=row.small_score,
                large=row.large_score,
            )
        )
        need.append(scored.small_insufficient)
    return found, np.array(need)


def _corrected_by_labels(
    seen: Sequence[TrainingLabel], labels: Sequence[TrainingLabel], own_labels: int, seed: int
) -> tuple[Array, Array]:
    """Gains and needs by labels that are not scored."""
    order = np.random.default_rng(seed).permutation(len(labels)).tolist()
    return _apply_head(calibration.fit_correction([labels[one] for one in order[:own_labels]], seed), seen)


def _cross_validated(seen: Sequence[TrainingLabel], own_labels: int, seed: int) -> tuple[Array, Array]:
    """Gains and needs of one source, each prompt by labels of other folds only."""
    randomness = np.random.default_rng(seed)
    part = randomness.permutation(len(seen)) % _FOLDS
    gain, need = np.zeros(len(seen)), np.zeros(len(seen))
    before = np.array([one.gain for one in seen])
    for fold in range(_FOLDS):
        others, mine = np.flatnonzero(part != fold), np.flatnonzero(part == fold)
        if not len(others) or not len(mine):
            gain[mine], need[mine] = before[mine], 0.5
            continue
        head = calibration.fit_correction([seen[int(one)] for one in randomness.permutation(others)[:own_labels]], seed)
        gain[mine], need[mine] = _apply_head(head, [seen[one] for one in mine.tolist()])
        # Folds were fitted apart: they are told together by their order, in the scorer's own measure.
        order = np.argsort(gain[mine], kind="stable")
        gain[mine[order]] = np.sort(before[mine])
    return gain, need


def _apply_head(head: ScorerCorrection, seen: Sequence[TrainingLabel]) -> tuple[Array, Array]:
    gain = np.array([corrected_gain(head, one.gain, one.standardized, one.words) for one in seen])
    slope, offset = head.need
    return gain, 1 / (1 + np.exp(-(slope * gain + offset)))


def _random_scores(count: int, seed: int) -> RouterScores:
    drawn = np.random.default_rng(seed).random(count)
    return RouterScores(drawn, np.full(count, 0.5))


def _length_scores(rows: Sequence[LabelledPrompt]) -> RouterScores:
    sizes = np.array([float(len(row.prompt)) for row in rows])
    ranks = np.argsort(np.argsort(sizes, kind="stable"), kind="stable")
    return RouterScores(sizes, ranks / max(1, len(rows) - 1))


def _oracle_scores(rows: Sequence[LabelledPrompt]) -> RouterScores:
    gain = np.array([row.large_score - row.small_score for row in rows])
    return RouterScores(gain, (gain > 0).astype(np.float64))
