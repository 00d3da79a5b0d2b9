"""The shipped weights: public outcomes of many models -> weights of words, and trees over words and numbers.

What is learnt is a soft label: an outcome on one model is one noisy draw, so it is mixed with what the outcomes of the
other models on the same prompt say of it. The words that the trees see were learnt on other rows (out of fold), so that
the trees do not trust them more than they deserve. Sources weigh by the root of their size: small ones count.
"""

import gzip
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...routing.prompt_features import prompt_features
from ...routing.scorer import LEAF_VALUE_SCALE, WORD_WEIGHT_SCALE
from ...values.plan import PromptFeatures
from . import boosted_trees, word_weights
from .boosted_trees import TreeParameters
from .labelled_prompts import LabelledPrompt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# The share of a pair's own outcome in its soft label; the ridge of what other models say.
_OWN_OUTCOME_SHARE, _SOFT_LABEL_RIDGE = 0.3, 30.0
_FOLDS, _SOFT_FOLDS = 4, 5
# Soft labels and thresholds are rounded, so that the last bits of a library's arithmetic decide nothing.
_SOFT_DECIMALS, _THRESHOLD_DECIMALS = 4, 4
_PROBABILITY_MIN, _PROBABILITY_MAX = 0.01, 0.99


class TrainedScorer:
    """Words, thresholds and trees of one training, and the calibration of the gain that they predict."""

    def __init__(
        self, rows: Sequence[LabelledPrompt], growth: TreeParameters, seed: int = 0, calibrate: bool = True
    ) -> None:
        found = [prompt_features(row.prompt, row.tools_json) for row in rows]
        targets, weights = soft_labels(rows), row_weights(rows)
        self.scale = _feature_scales(found)
        self._train(rows, found, targets, weights, growth, seed)
        self.calibration = _out_of_fold_calibration(rows, growth, seed) if calibrate else (4.0, -1.0)

    def _train(
        self, rows: Sequence[LabelledPrompt], found: Sequence[PromptFeatures], targets: Floats, weights: Floats, growth: TreeParameters,
        seed: int,
    ) -> None:  # fmt: skip
        prompts = [one.words for one in found]
        said, part = np.zeros((len(rows), 2)), folds([row.question_id for row in rows], _FOLDS)
        for fold in range(_FOLDS):
            seen, unseen = np.flatnonzero(part != fold), np.flatnonzero(part == fold)
            if len(seen) and len(unseen):
                learnt = word_weights.train_words(
                    [prompts[row] for row in seen.tolist()], targets[seen], weights[seen], seed
                )
                said[unseen] = learnt.predict([prompts[row] for row in unseen.tolist()])
        self.word_weights = word_weights.train_words(prompts, targets, weights, seed)
        inputs = _input_matrix(found, said)
        self.thresholds = [np.round(one, _THRESHOLD_DECIMALS) for one in boosted_trees.bin_thresholds(inputs, weights)]
        self.base, self.trees = boosted_trees.fit_trees(
            boosted_trees.bin_inputs(inputs, self.thresholds), targets, weights, growth, seed
        )

    def predict(self, found: Sequence[PromptFeatures]) -> Floats:
        """P(small right), P(frontier right), n x 2."""
        inputs = _input_matrix(found, self.word_weights.predict([one.words for one in found]))
        return np.clip(
            boosted_trees.predict(self.base, self.trees, boosted_trees.bin_inputs(inputs, self.thresholds)),
            _PROBABILITY_MIN,
            _PROBABILITY_MAX,
        )

    def document(self) -> dict[str, Any]:
        """The weights as the scorer reads them: whole numbers of its parts."""
        return {
            "base": [round(float(one) * LEAF_VALUE_SCALE) for one in self.base],
            "need": [round(one, 4) for one in self.calibration],
            "cuts": [cut.tolist() for cut in self.thresholds],
            "scale": [[round(float(mean), 5), round(float(factor), 5)] for mean, factor in self.scale],
            "trees": [_tree_document(tree) for tree in self.trees],
            "words": " ".join(self.word_weights.vocabulary),
            "lanes": np.round(self.word_weights.weights * WORD_WEIGHT_SCALE).astype(int).T.tolist(),
        }


def weights_file(trained: TrainedScorer, provenance: Mapping[str, Any]) -> bytes:
    """The file that is committed: the same bytes for the same data."""
    document = {"provenance": provenance, **trained.document()}
    return gzip.compress(json.dumps(document, separators=(",", ":")).encode(), 9, mtime=0)


def provenance(rows: Sequence[LabelledPrompt], growth: TreeParameters, seed: int) -> dict[str, Any]:
    """What the weights come from: rows by source, a digest of the data, how the trees were grown."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row.id} {row.small_score} {row.large_score}\n".encode())
    return {
        "rows": dict(sorted(Counter(row.source_group for row in rows).items())),
        "data": digest.hexdigest()[:16],
        "growth": growth._asdict(),
        "seed": seed,
    }


def soft_labels(rows: Sequence[LabelledPrompt]) -> Floats:
    """Targets in [0, 1], n x 2: the pair's own outcomes, mixed with a cross-fitted ridge regression of them on what other
    models made of the same prompt (of the same question, where the row itself has no other)."""
    own = np.array([[row.small_score, row.large_score] for row in rows])
    others: dict[str, Mapping[str, float]] = {
        row.question_id: row.logged_scores for row in rows if len(row.logged_scores) > 2
    }
    by_place: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        by_place[row.source_group].append(number)
    soft = own.copy()
    for numbers in by_place.values():
        chosen = [rows[number] for number in numbers]
        for side in (0, 1):
            known = [_other_model_scores(row, others, side) for row in chosen]
            models = sorted({model for scores in known for model in scores})
            if len(models) > 1:
                guessed = _predict_from_others(chosen, known, models, own[numbers, side])
                soft[numbers, side] = _OWN_OUTCOME_SHARE * own[numbers, side] + (1 - _OWN_OUTCOME_SHARE) * guessed
    return np.round(soft, _SOFT_DECIMALS)


def _other_model_scores(
    row: LabelledPrompt, others: Mapping[str, Mapping[str, float]], side: int
) -> Mapping[str, float]:
    own = (row.small_model, row.large_model)[side]
    if len(row.logged_scores) > 2:
        return {model: score for model, score in row.logged_scores.items() if model != own}
    return others.get(row.question_id, {})


def _predict_from_others(
    rows: Sequence[LabelledPrompt], known: Sequence[Mapping[str, float]], models: Sequence[str], own: Floats
) -> Floats:
    """What the other models' outcomes, and the task, say of an outcome; each row by rows of other questions."""
    table = np.array([[scores.get(model, np.nan) for model in models] for scores in known])
    present = ~np.isnan(table)
    means = np.where(present, table, 0.0).sum(0) / np.maximum(1, present.sum(0))
    tasks = sorted({row.task or "" for row in rows})
    table = np.hstack(
        [np.where(present, table, means), [[float((row.task or "") == task) for task in tasks] for row in rows]]
    )
    table -= table.mean(0)
    part, guessed = folds([row.question_id for row in rows], _SOFT_FOLDS, salt="soft"), own.copy()
    for fold in range(_SOFT_FOLDS):
        seen, unseen = part != fold, part == fold
        if seen.any() and unseen.any():
            mean, inner = own[seen].mean(), table[seen]
            ridge = inner.T @ inner + _SOFT_LABEL_RIDGE * np.eye(table.shape[1])
            slope = np.linalg.solve(ridge, inner.T @ (own[seen] - mean))
            guessed[unseen] = np.clip(table[unseen] @ slope + mean, _PROBABILITY_MIN, _PROBABILITY_MAX)
    return guessed


def row_weights(rows: Sequence[LabelledPrompt]) -> Floats:
    """One over the root of the source's size, mean 1."""
    sizes = Counter(row.source_group for row in rows)
    found = np.array([sizes[row.source_group] ** -0.5 for row in rows])
    return np.asarray(found / found.mean())


def folds(questions: Sequence[str], count: int, salt: str = "words") -> Integers:
    """The fold of each question: the same question never stands in two."""
    digests = [hashlib.sha256(f"{salt}:{question}".encode()).digest() for question in questions]
    return np.array([int.from_bytes(digest[:4], "big") % count for digest in digests])


def fit_calibration(gain: Floats, wanting: Floats, weights: Floats) -> tuple[float, float]:
    """(slope, offset) of the logistic that turns a predicted gain into the probability that the small tier does not
    suffice (Platt scaling, by Newton's method with a slight ridge)."""
    inputs = np.stack([gain, np.ones_like(gain)], 1)
    found = np.array([4.0, -1.0])
    for _ in range(25):
        said = 1 / (1 + np.exp(-(inputs @ found)))
        slope = inputs.T @ (weights * (said - wanting)) + 1e-3 * found
        bend = (inputs * (weights * said * (1 - said))[:, None]).T @ inputs + 1e-3 * np.eye(2)
        found = found - np.linalg.solve(bend, slope)
    return float(found[0]), float(found[1])


def _out_of_fold_calibration(rows: Sequence[LabelledPrompt], growth: TreeParameters, seed: int) -> tuple[float, float]:
    """Calibrated on rows that the trees have not seen; every source weighs the same."""
    part, gain = folds([row.question_id for row in rows], _SOFT_FOLDS, salt="need"), np.zeros(len(rows))
    for fold in range(_SOFT_FOLDS):
        seen = [row for row, one in zip(rows, part, strict=True) if one != fold]
        unseen = np.flatnonzero(part == fold)
        if seen and len(unseen):
            trained = TrainedScorer(seen, growth, seed, calibrate=False)
            said = trained.predict(
                [prompt_features(rows[number].prompt, rows[number].tools_json) for number in unseen.tolist()]
            )
            gain[unseen] = said[:, 1] - said[:, 0]
    sizes = Counter(row.source_group for row in rows)
    weights = np.array([1 / sizes[row.source_group] for row in rows])
    wanting = np.array([float(row.large_score > row.small_score) for row in rows])
    return fit_calibration(gain, wanting, weights / weights.mean())


def _input_matrix(found: Sequence[PromptFeatures], said: Floats) -> Floats:
    return np.hstack([np.array([one.dense for one in found], float), said, said[:, 1:] - said[:, :1]])


def _feature_scales(found: Sequence[PromptFeatures]) -> list[tuple[float, float]]:
    """Mean and one over the deviation of the logarithm of each number; 0 for what never changes."""
    logs = np.log1p(np.maximum(np.array([one.dense for one in found], float), -0.5))
    deviation = logs.std(0)
    return [
        (float(mean), float(1 / one) if one > 1e-6 else 0.0) for mean, one in zip(logs.mean(0), deviation, strict=True)
    ]


def _tree_document(tree: boosted_trees.Tree) -> list[Any]:
    if "value" in tree:
        return [round(one * LEAF_VALUE_SCALE) for one in tree["value"]]
    return [tree["feature"], tree["last"], _tree_document(tree["left"]), _tree_document(tree["right"])]
