"""Output length estimates: quantiles per task type and model, from own calls.

A histogram in bins of a sixth of an octave, halved now and then so that it follows changes. It sets holds where an
operator allows `hold: expected`; it never affects a charge.
"""

import math
from collections import OrderedDict

# Share of answers that end within the expected length; the rest extend their hold or end at it.
EXPECTED_QUANTILE = 0.95
# With fewer calls a quantile of 0.95 means nothing; a wider group is used then.
_CALLS_MIN = 20
# Calls after which old ones count half.
_HALVE_AT_CALLS = 2_000
_GROUPS_MAX = 2_000
_BINS_PER_OCTAVE = 6
_BINS = 24 * _BINS_PER_OCTAVE
# Expected tokens of an answer before any call was seen, generous. Of 39,486 assistant turns in 3,948 public agent
# sessions (AgentDojo, tau-bench, SWE-agent, Who&When; o200k_base) the median is 71, the 0.95 quantile 316, the 0.99
# quantile 455; models that reason write several times as much.
DEFAULT_EXPECTED_TOKENS = 2_000
# The median before any call was seen: above that of those turns, as models that reason write more.
DEFAULT_MEDIAN_TOKENS = 300
# Quantiles are recomputed after this many calls: computing one walks the bins.
_REFRESH_CALLS = 16


class OutputEstimates:
    """Histograms of output tokens by (task type, model), bounded."""

    def __init__(self) -> None:
        self._histograms: OrderedDict[tuple[str, str], list[int]] = OrderedDict()
        # (call count // _REFRESH_CALLS, median, expected length) of each group.
        self._quantiles: dict[tuple[str, str], tuple[int, int, int]] = {}

    def observe(self, task_type: str, model: str, output_tokens: int) -> None:
        """Record the output tokens of a call that ended by itself."""
        bin_index = min(_BINS, round(math.log2(output_tokens) * _BINS_PER_OCTAVE) + 1) if output_tokens > 0 else 0
        for group in ((task_type, model), ("", model), (task_type, "")):
            counts = self._histograms.get(group)
            if counts is None:
                counts = self._histograms[group] = [0] * (_BINS + 2)
                if len(self._histograms) > _GROUPS_MAX:
                    self._quantiles.pop(self._histograms.popitem(last=False)[0], None)
            else:
                self._histograms.move_to_end(group)
            counts[bin_index] += 1
            counts[-1] += 1
            if counts[-1] >= _HALVE_AT_CALLS:
                counts[:-1] = [count // 2 for count in counts[:-1]]
                counts[-1] = sum(counts[:-1])

    def median_tokens(self, task_type: str, model: str) -> int:
        """The median output tokens of such calls.

        Falls back to other task types of the model, other models on the task type, then DEFAULT_MEDIAN_TOKENS.
        """
        for group in ((task_type, model), ("", model), (task_type, "")):
            counts = self._histograms.get(group)
            if counts is not None and counts[-1] >= _CALLS_MIN:
                return self._quantiles_of(group, counts)[1]
        return DEFAULT_MEDIAN_TOKENS

    def expected_tokens(self, task_type: str, model: str) -> int:
        """EXPECTED_QUANTILE of the output tokens of such calls, a bin's upper end."""
        for group in ((task_type, model), ("", model)):
            counts = self._histograms.get(group)
            if counts is not None and counts[-1] >= _CALLS_MIN:
                return self._quantiles_of(group, counts)[2]
        return DEFAULT_EXPECTED_TOKENS

    def _quantiles_of(self, group: tuple[str, str], counts: list[int]) -> tuple[int, int, int]:
        cached = self._quantiles.get(group)
        if cached is None or cached[0] != counts[-1] // _REFRESH_CALLS:
            cached = self._quantiles[group] = (
                counts[-1] // _REFRESH_CALLS, _quantile(counts, 0.5), _quantile(counts, EXPECTED_QUANTILE),
            )  # fmt: skip
        return cached


def _quantile(counts: list[int], share: float) -> int:
    remaining = counts[-1] * share
    for bin_index, count in enumerate(counts[:-1]):
        remaining -= count
        if remaining <= 0:
            return math.ceil(2 ** ((bin_index - 0.5) / _BINS_PER_OCTAVE)) if bin_index else 1
    return math.ceil(2 ** (_BINS / _BINS_PER_OCTAVE))
