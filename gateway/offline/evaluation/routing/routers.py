"""Who is tried: our scorer, as shipped or corrected by own labels, and what it must beat."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....routing.classifiers.learned import corrected
from ....routing.prompt_features import features
from ....routing.scorer import Scorer
from ....values.quality import Head
from ...training import calibration
from ...training.calibration import Seen
from ...training.labelled_prompts import Labelled, by_place

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


def routers(scorer: Scorer, own_labels: int, seed: int, taught: Sequence[Labelled] = ()) -> Mapping[str, Router]:
    """Ours and the others, by name. `taught` are rows that labels are drawn from before any others."""
    return {
        OURS: lambda rows: ours(rows, scorer, own_labels, seed, taught),
        "random": lambda rows: _random(len(rows), seed),
        "length": _length,
        "oracle": _oracle,
    }


def ours(rows: Sequence[Labelled], scorer: Scorer, own_labels: int, seed: int, taught: Sequence[Labelled] = ()) -> Said:
    """Our scorer; with `own_labels`, corrected in each source by at most so many of its labels: of those that teach, where
    the source has any, else each prompt by labels of other prompts."""
    seen, need = _seen(rows, scorer)
    gain = np.array([one.gain for one in seen])
    if not own_labels:
        return Said(gain, need)
    numbers: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        numbers.setdefault(row.place, []).append(number)
    labels = {place: _seen(mine, scorer)[0] for place, mine in by_place(taught).items()}
    for place, chosen in numbers.items():
        mine = np.array(chosen, np.intp)
        known = labels.get(place)
        found = [seen[one] for one in chosen]
        if known is not None:
            gain[mine], need[mine] = _taught(found, known, own_labels, seed)
        else:
            gain[mine], need[mine] = _crossed(found, own_labels, seed)
    return Said(gain, need)


def _seen(rows: Sequence[Labelled], scorer: Scorer) -> tuple[list[Seen], Array]:
    """Each row as a label, and the scorer's own probability that small does not suffice."""
    found, need = [], []
    for row in rows:
        read = features(row.prompt, row.tools)
        scored = scorer.score(read)
        words = scorer.words_at(scorer.known(read.words))
        found.append(
            Seen(
                gain=scored.gain,
                need=scored.need,
                placed=scorer.placed(read.dense),
                words=words,
                known=len(words) / max(1, len(read.words)),
                small=row.small_score,
                large=row.large_score,
            )
        )
        need.append(scored.need)
    return found, np.array(need)


def _taught(seen: Sequence[Seen], labels: Sequence[Seen], own_labels: int, seed: int) -> tuple[Array, Array]:
    """Gains and needs by labels that are not scored."""
    order = np.random.default_rng(seed).permutation(len(labels)).tolist()
    return _by(calibration.fit([labels[one] for one in order[:own_labels]], seed), seen)


def _crossed(seen: Sequence[Seen], own_labels: int, seed: int) -> tuple[Array, Array]:
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
        head = calibration.fit([seen[int(one)] for one in chance.permutation(others)[:own_labels]], seed)
        gain[mine], need[mine] = _by(head, [seen[one] for one in mine.tolist()])
        # Folds were fitted apart: they are told together by their order, in the scorer's own measure.
        order = np.argsort(gain[mine], kind="stable")
        gain[mine[order]] = np.sort(before[mine])
    return gain, need


def _by(head: Head, seen: Sequence[Seen]) -> tuple[Array, Array]:
    gain = np.array([corrected(head, one.gain, one.placed, one.words) for one in seen])
    slope, offset = head.need
    return gain, 1 / (1 + np.exp(-(slope * gain + offset)))


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
