"""Who is tried: our scorer, as shipped or corrected by own labels, and what it must beat."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...learning import correct
from ...learning.correct import Seen
from ...learning.labelled import Labelled, by_place
from ...routing.classifiers.learned import corrected
from ...routing.features import features
from ...routing.scorer import Scorer

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

OURS = "penstock"
# Labels of a source are drawn from the other folds, so that no prompt is scored by what its own outcome taught.
_FOLDS = 5


class Said(NamedTuple):
    """For every prompt: a score (higher wants the frontier more), and the calibrated probability in [0, 1] that the
    small model does not suffice."""

    score: Array
    need: Array


Router = Callable[[Sequence[Labelled]], Said]


def routers(scorer: Scorer, own_labels: int, seed: int) -> Mapping[str, Router]:
    """Ours and the others, by name."""
    return {
        OURS: lambda rows: ours(rows, scorer, own_labels, seed),
        "random": lambda rows: _random(len(rows), seed),
        "length": _length,
        "oracle": _oracle,
    }


def ours(rows: Sequence[Labelled], scorer: Scorer, own_labels: int, seed: int) -> Said:
    """Our scorer; with `own_labels`, corrected in each source by at most so many of its labels."""
    found = [features(row.prompt, row.context) for row in rows]
    scored = [scorer.score(one) for one in found]
    gain, need = np.array([one.gain for one in scored]), np.array([one.need for one in scored])
    if not own_labels:
        return Said(gain, need)
    seen = [
        Seen(
            gain=mark.gain,
            placed=scorer.placed(one.dense),
            words=(known := scorer.words_at(scorer.known(one.words))),
            known=len(known) / max(1, len(one.words)),
            small=row.small_score,
            large=row.large_score,
        )
        for row, one, mark in zip(rows, found, scored, strict=True)
    ]
    numbers: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        numbers.setdefault(row.place, []).append(number)
    for place in by_place(rows):
        mine = np.array(numbers[place], np.intp)
        gain[mine], need[mine] = _corrected([seen[one] for one in mine.tolist()], own_labels, seed)
    return Said(gain, need)


def _corrected(seen: Sequence[Seen], own_labels: int, seed: int) -> tuple[Array, Array]:
    """Gains and needs of one source, each prompt by labels of other folds only."""
    chance = np.random.default_rng(seed)
    part = chance.permutation(len(seen)) % _FOLDS
    gain, need = np.zeros(len(seen)), np.zeros(len(seen))
    before = np.array([one.gain for one in seen])
    for fold in range(_FOLDS):
        others, mine = np.flatnonzero(part != fold), np.flatnonzero(part == fold)
        if not len(others) or not len(mine):
            gain[mine], need[mine] = before[mine], 0.5
            continue
        head = correct.fit([seen[int(one)] for one in chance.permutation(others)[:own_labels]], seed)
        for one in mine.tolist():
            gain[one] = corrected(head, seen[one].gain, seen[one].placed, seen[one].words)
        slope, offset = head.need
        need[mine] = 1 / (1 + np.exp(-(slope * gain[mine] + offset)))
        # Folds were fitted apart: they are told together by their order, in the scorer's own measure.
        order = np.argsort(gain[mine], kind="stable")
        gain[mine[order]] = np.sort(before[mine])
    return gain, need


def _random(count: int, seed: int) -> Said:
    drawn = np.random.default_rng(seed).random(count)
    return Said(drawn, np.full(count, 0.5))


def _length(rows: Sequence[Labelled]) -> Said:
    sizes = np.array([float(len(row.prompt)) for row in rows])
    ranks = np.argsort(np.argsort(sizes, kind="stable"), kind="stable")
    return Said(sizes, ranks / max(1, len(rows) - 1))


def _oracle(rows: Sequence[Labelled]) -> Said:
    gain = np.array([row.large_score - row.small_score for row in rows])
    return Said(gain, (gain > 0).astype(np.float64))
