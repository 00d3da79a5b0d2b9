"""Trains the shipped scorer: weights of words, and trees over words and numbers.

The target is a soft label: an outcome on one model is one noisy draw, so it is mixed with what the outcomes of other
models on the same prompt predict. The word sums that the trees see were trained on other rows (out of fold), so that
the trees do not overrate them. Sources are weighted by the root of their size, so that small ones count.
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

# The share of a pair's own outcome in its soft label; the ridge of the prediction from other models.
_OWN_OUTCOME_SHARE, _SOFT_LABEL_RIDGE = 0.3, 30.0
_FOLDS, _SOFT_FOLDS = 4, 5
# Soft labels and thresholds are rounded, so that the last bits of a library's arithmetic do not matter.
_SOFT_DECIMALS, _THRESHOLD_DECIMALS = 4, 4
_PROBABILITY_MIN, _PROBABILITY_MAX = 0.01, 0.99


class TrainedScorer:
    """Words, thresholds and trees of one training, and the calibration of its gain."""

    def __init__(
        self, rows: Sequence[LabelledPrompt], parameters: TreeParameters, seed: int = 0, calibrate: bool = True
    ) -> None:
        features = [prompt_features(row.prompt, row.tools_json) for row in rows]
        targets, weights = soft_labels(rows), row_weights(rows)
        self.scale = _feature_scales(features)
        self._train(rows, features, targets, weights, parameters, seed)
        self.calibration = _out_of_fold_calibration(rows, parameters, seed) if calibrate else (4.0, -1.0)

    def _train(
        self, rows: Sequence[LabelledPrompt], features: Sequence[PromptFeatures], targets: Floats, weights: Floats,
        growth: TreeParameters, seed: int,
    ) -> None:  # fmt: skip
        prompts = [prompt.words for prompt in features]
        word_sums, fold_of = np.zeros((len(rows), 2)), folds([row.question_id for row in rows], _FOLDS)
        for fold in range(_FOLDS):
            training, held_out = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
            if len(training) and len(held_out):
                fold_weights = word_weights.train_words(
                    [prompts[row] for row in training.tolist()], targets[training], weights[training], seed
                )
                word_sums[held_out] = fold_weights.predict([prompts[row] for row in held_out.tolist()])
        self.word_weights = word_weights.train_words(prompts, targets, weights, seed)
        inputs = _input_matrix(features, word_sums)
        self.thresholds = [
            np.round(prompt, _THRESHOLD_DECIMALS) for prompt in boosted_trees.bin_thresholds(inputs, weights)
        ]
        self.base, self.trees = boosted_trees.fit_trees(
            boosted_trees.bin_inputs(inputs, self.thresholds), targets, weights, growth, seed
        )

    def predict(self, features: Sequence[PromptFeatures]) -> Floats:
        """P(small right), P(frontier right), n x 2."""
        inputs = _input_matrix(features, self.word_weights.predict([prompt.words for prompt in features]))
        return np.clip(
            boosted_trees.predict(self.base, self.trees, boosted_trees.bin_inputs(inputs, self.thresholds)),
            _PROBABILITY_MIN,
            _PROBABILITY_MAX,
        )

    def document(self) -> dict[str, Any]:
        """The weights in the scorer's integer units."""
        return {
            "base": [round(float(value) * LEAF_VALUE_SCALE) for value in self.base],
            "need": [round(value, 4) for value in self.calibration],
            "cuts": [thresholds.tolist() for thresholds in self.thresholds],
            "scale": [[round(float(mean), 5), round(float(factor), 5)] for mean, factor in self.scale],
            "trees": [_tree_document(tree) for tree in self.trees],
            "words": " ".join(self.word_weights.vocabulary),
            "lanes": np.round(self.word_weights.weights * WORD_WEIGHT_SCALE).astype(int).T.tolist(),
        }


def weights_file(trained: TrainedScorer, provenance: Mapping[str, Any]) -> bytes:
    """The committed file: the same bytes for the same data."""
    document = {"provenance": provenance, **trained.document()}
    return gzip.compress(json.dumps(document, separators=(",", ":")).encode(), 9, mtime=0)


def provenance(rows: Sequence[LabelledPrompt], growth: TreeParameters, seed: int) -> dict[str, Any]:
    """Where the weights come from: rows by source, a digest of the data, parameters."""
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
    """Targets in [0, 1], n x 2: own outcomes mixed with other models' predictions.

    A cross-fitted ridge regression predicts them from what other models made of the same prompt (of the same question,
    where the row itself has no other).
    """
    own = np.array([[row.small_score, row.large_score] for row in rows])
    others: dict[str, Mapping[str, float]] = {
        row.question_id: row.logged_scores for row in rows if len(row.logged_scores) > 2
    }
    rows_by_source: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        rows_by_source[row.source_group].append(index)
    soft = own.copy()
    for indexes in rows_by_source.values():
        source_rows = [rows[index] for index in indexes]
        for side in (0, 1):
            other_scores = [_other_model_scores(row, others, side) for row in source_rows]
            models = sorted({model for scores in other_scores for model in scores})
            if len(models) > 1:
                predicted = _predict_from_others(source_rows, other_scores, models, own[indexes, side])
                soft[indexes, side] = _OWN_OUTCOME_SHARE * own[indexes, side] + (1 - _OWN_OUTCOME_SHARE) * predicted
    return np.round(soft, _SOFT_DECIMALS)


def _other_model_scores(
    row: LabelledPrompt, others: Mapping[str, Mapping[str, float]], side: int
) -> Mapping[str, float]:
    own = (row.small_model, row.large_model)[side]
    if len(row.logged_scores) > 2:
        return {model: score for model, score in row.logged_scores.items() if model != own}
    return others.get(row.question_id, {})


def _predict_from_others(
    rows: Sequence[LabelledPrompt], other_scores: Sequence[Mapping[str, float]], models: Sequence[str], own: Floats
) -> Floats:
    """Outcomes predicted from other models' outcomes and the task.

    Each row is predicted by rows of other questions.
    """
    table = np.array([[scores.get(model, np.nan) for model in models] for scores in other_scores])
    present = ~np.isnan(table)
    means = np.where(present, table, 0.0).sum(0) / np.maximum(1, present.sum(0))
    tasks = sorted({row.task or "" for row in rows})
    table = np.hstack(
        [np.where(present, table, means), [[float((row.task or "") == task) for task in tasks] for row in rows]]
    )
    table -= table.mean(0)
    fold_of, predicted = folds([row.question_id for row in rows], _SOFT_FOLDS, salt="soft"), own.copy()
    for fold in range(_SOFT_FOLDS):
        training, held_out = fold_of != fold, fold_of == fold
        if training.any() and held_out.any():
            mean, inner = own[training].mean(), table[training]
            ridge = inner.T @ inner + _SOFT_LABEL_RIDGE * np.eye(table.shape[1])
            slope = np.linalg.solve(ridge, inner.T @ (own[training] - mean))
            predicted[held_out] = np.clip(table[held_out] @ slope + mean, _PROBABILITY_MIN, _PROBABILITY_MAX)
    return predicted


def row_weights(rows: Sequence[LabelledPrompt]) -> Floats:
    """The inverse root of the source's size, with mean 1."""
    sizes = Counter(row.source_group for row in rows)
    weights = np.array([sizes[row.source_group] ** -0.5 for row in rows])
    return np.asarray(weights / weights.mean())


def folds(questions: Sequence[str], count: int, salt: str = "words") -> Integers:
    """The fold of each question; a question is in one fold only."""
    digests = [hashlib.sha256(f"{salt}:{question}".encode()).digest() for question in questions]
    return np.array([int.from_bytes(digest[:4], "big") % count for digest in digests])


def fit_calibration(gain: Floats, needed: Floats, weights: Floats) -> tuple[float, float]:
    """(slope, offset) that turn a gain into the log-odds that small does not suffice.

    Platt scaling, by Newton's method with a slight ridge.
    """
    inputs = np.stack([gain, np.ones_like(gain)], 1)
    coefficients = np.array([4.0, -1.0])
    for _ in range(25):
        predicted = 1 / (1 + np.exp(-(inputs @ coefficients)))
        gradient = inputs.T @ (weights * (predicted - needed)) + 1e-3 * coefficients
        hessian = (inputs * (weights * predicted * (1 - predicted))[:, None]).T @ inputs + 1e-3 * np.eye(2)
        coefficients = coefficients - np.linalg.solve(hessian, gradient)
    return float(coefficients[0]), float(coefficients[1])


def _out_of_fold_calibration(rows: Sequence[LabelledPrompt], growth: TreeParameters, seed: int) -> tuple[float, float]:
    """Calibration on held-out rows; every source has the same weight."""
    fold_of, gain = folds([row.question_id for row in rows], _SOFT_FOLDS, salt="need"), np.zeros(len(rows))
    for fold in range(_SOFT_FOLDS):
        training = [row for row, row_fold in zip(rows, fold_of, strict=True) if row_fold != fold]
        held_out = np.flatnonzero(fold_of == fold)
        if training and len(held_out):
            trained = TrainedScorer(training, growth, seed, calibrate=False)
            predicted = trained.predict(
                [prompt_features(rows[number].prompt, rows[number].tools_json) for number in held_out.tolist()]
            )
            gain[held_out] = predicted[:, 1] - predicted[:, 0]
    sizes = Counter(row.source_group for row in rows)
    weights = np.array([1 / sizes[row.source_group] for row in rows])
    needed = np.array([float(row.large_score > row.small_score) for row in rows])
    return fit_calibration(gain, needed, weights / weights.mean())


def _input_matrix(features: Sequence[PromptFeatures], word_sums: Floats) -> Floats:
    return np.hstack(
        [np.array([prompt.dense for prompt in features], float), word_sums, word_sums[:, 1:] - word_sums[:, :1]]
    )


def _feature_scales(features: Sequence[PromptFeatures]) -> list[tuple[float, float]]:
    """(mean, 1 / deviation) of each number's logarithm; factor 0 for a constant."""
    logs = np.log1p(np.maximum(np.array([prompt.dense for prompt in features], float), -0.5))
    deviation = logs.std(0)
    return [
        (float(mean), float(1 / prompt) if prompt > 1e-6 else 0.0)
        for mean, prompt in zip(logs.mean(0), deviation, strict=True)
    ]


def _tree_document(tree: boosted_trees.Tree) -> list[Any]:
    if "value" in tree:
        return [round(value * LEAF_VALUE_SCALE) for value in tree["value"]]
    return [tree["feature"], tree["last"], _tree_document(tree["left"]), _tree_document(tree["right"])]
