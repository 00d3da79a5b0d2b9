"""The routers: our scorer, as shipped or corrected by own labels, and baselines."""

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
# Labels of a source are drawn from the other folds, so that no prompt is scored by its own outcome.
_FOLDS = 5


class RouterScores(NamedTuple):
    """Scores of every prompt.

    scores: higher needs the frontier more
    frontier_need: calibrated probability that the small model does not suffice, in [0, 1]
    """

    scores: Array
    frontier_need: Array


Router = Callable[[Sequence[LabelledPrompt]], RouterScores]


def routers(
    scorer: Scorer, own_labels: int, seed: int, training_rows: Sequence[LabelledPrompt] = ()
) -> Mapping[str, Router]:
    """Ours and the baselines, by name.

    `taught`: rows from which labels are drawn before any others.
    """
    return {
        PENSTOCK: lambda rows: penstock_router(rows, scorer, own_labels, seed, training_rows),
        "random": lambda rows: _random_scores(len(rows), seed),
        "length": _length_scores,
        "oracle": _oracle_scores,
    }


def penstock_router(
    rows: Sequence[LabelledPrompt], scorer: Scorer, own_labels: int, seed: int, taught: Sequence[LabelledPrompt] = ()
) -> RouterScores:
    """Our scorer, corrected in each source by at most `own_labels` labels.

    Labels are drawn from `taught` where the source has rows there, else each prompt is scored by labels of other
    prompts.
    """
    scored, need = _rows_as_labels(rows, scorer)
    gain = np.array([label.gain for label in scored])
    if not own_labels:
        return RouterScores(gain, need)
    rows_by_source: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        rows_by_source.setdefault(row.source_group, []).append(number)
    labels = {source: _rows_as_labels(indexes, scorer)[0] for source, indexes in by_source(taught).items()}
    for source, row_numbers in rows_by_source.items():
        indexes = np.array(row_numbers, np.intp)
        source_labels = labels.get(source)
        source_scored = [scored[label] for label in row_numbers]
        if source_labels is not None:
            gain[indexes], need[indexes] = _corrected_by_labels(source_scored, source_labels, own_labels, seed)
        else:
            gain[indexes], need[indexes] = _cross_validated(source_scored, own_labels, seed)
    return RouterScores(gain, need)


def _rows_as_labels(rows: Sequence[LabelledPrompt], scorer: Scorer) -> tuple[list[TrainingLabel], Array]:
    """Each row as a label, and the scorer's probability that small does not suffice."""
    labels, need = [], []
    for row in rows:
        features = prompt_features(row.prompt, row.tools_json)
        scored = scorer.score(features)
        words = scorer.words_at(scorer.word_indices(features.words))
        labels.append(
            TrainingLabel(
                gain=scored.gain,
                small_insufficient=scored.small_insufficient,
                standardized=scorer.standardize(features.dense),
                words=words,
                known_word_share=len(words) / max(1, len(features.words)),
                small=row.small_score,
                large=row.large_score,
            )
        )
        need.append(scored.small_insufficient)
    return labels, np.array(need)


def _corrected_by_labels(
    scored: Sequence[TrainingLabel], labels: Sequence[TrainingLabel], own_labels: int, seed: int
) -> tuple[Array, Array]:
    """Gains and needs, corrected by labels of other rows."""
    order = np.random.default_rng(seed).permutation(len(labels)).tolist()
    return _apply_head(calibration.fit_correction([labels[index] for index in order[:own_labels]], seed), scored)


def _cross_validated(scored: Sequence[TrainingLabel], own_labels: int, seed: int) -> tuple[Array, Array]:
    """Gains and needs of one source, each prompt by labels of other folds."""
    randomness = np.random.default_rng(seed)
    fold_of = randomness.permutation(len(scored)) % _FOLDS
    gain, need = np.zeros(len(scored)), np.zeros(len(scored))
    uncorrected = np.array([index.gain for index in scored])
    for fold in range(_FOLDS):
        training, held_out = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        if not len(training) or not len(held_out):
            gain[held_out], need[held_out] = uncorrected[held_out], 0.5
            continue
        head = calibration.fit_correction(
            [scored[int(index)] for index in randomness.permutation(training)[:own_labels]], seed
        )
        gain[held_out], need[held_out] = _apply_head(head, [scored[index] for index in held_out.tolist()])
        # Folds were fitted separately: they are merged by rank, on the scorer's own scale.
        order = np.argsort(gain[held_out], kind="stable")
        gain[held_out[order]] = np.sort(uncorrected[held_out])
    return gain, need


def _apply_head(head: ScorerCorrection, scored: Sequence[TrainingLabel]) -> tuple[Array, Array]:
    gain = np.array([corrected_gain(head, label.gain, label.standardized, label.words) for label in scored])
    slope, offset = head.need
    return gain, 1 / (1 + np.exp(-(slope * gain + offset)))


def _random_scores(count: int, seed: int) -> RouterScores:
    scores = np.random.default_rng(seed).random(count)
    return RouterScores(scores, np.full(count, 0.5))


def _length_scores(rows: Sequence[LabelledPrompt]) -> RouterScores:
    sizes = np.array([float(len(row.prompt)) for row in rows])
    ranks = np.argsort(np.argsort(sizes, kind="stable"), kind="stable")
    return RouterScores(sizes, ranks / max(1, len(rows) - 1))


def _oracle_scores(rows: Sequence[LabelledPrompt]) -> RouterScores:
    gain = np.array([row.large_score - row.small_score for row in rows])
    return RouterScores(gain, (gain > 0).astype(np.float64))
