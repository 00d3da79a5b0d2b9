"""How long answers usually are: a quantile per task type and model, learnt from calls that ended by themselves.

A book: counts in bins of a sixth of an octave, halved now and then so that it follows what changes. What it says sets
holds where an operator allows `hold: expected`; it never touches a charge.
"""

import math
from collections import OrderedDict

# Of answers that end within the expected length; the rest extend their hold or end at it.
EXPECTED_QUANTILE = 0.95
# Below so many calls a quantile of 0.95 says nothing; a wider group is asked then.
_CALLS_MIN = 20
# Calls after which old ones count half.
_HALVE_AT_CALLS = 2_000
_GROUPS_MAX = 2_000
_BINS_PER_OCTAVE = 6
_BINS = 24 * _BINS_PER_OCTAVE
# Tokens of an answer where nothing is known yet: generous. Of 39,486 assistant turns in 3,948 public agent sessions
# (AgentDojo, tau-bench, SWE-agent, Who&When; o200k_base) the median is 71, the 0.95 quantile 316, the 0.99 quantile 455;
# models that reason write several times as much.
DEFAULT_EXPECTED_TOKENS = 2_000
# The usual length where nothing is known yet: above the median of those turns, as models that reason write more.
DEFAULT_MEDIAN_TOKENS = 300
# Medians are read again after so many calls: reading one walks the bins.
_MEDIAN_REFRESH_CALLS = 16


class OutputEstimates:
    """Lengths of answers in tokens, by (task type, model), bounded."""

    def __init__(self) -> None:
        self._histograms: OrderedDict[tuple[str, str], list[int]] = OrderedDict()
        # Medians, with the number of calls (in steps) that they were read from.
        self._medians: dict[tuple[str, str], tuple[int, int]] = {}

    def observe(self, task_type: str, model: str, output_tokens: int) -> None:
        """One call ended by itself with so many output tokens."""
        place = min(_BINS, round(math.log2(output_tokens) * _BINS_PER_OCTAVE) + 1) if output_tokens > 0 else 0
        for group in ((task_type, model), ("", model), (task_type, "")):
            counts = self._histograms.get(group)
            if counts is None:
                counts = self._histograms[group] = [0] * (_BINS + 2)
                if len(self._histograms) > _GROUPS_MAX:
                    self._medians.pop(self._histograms.popitem(last=False)[0], None)
            else:
                self._histograms.move_to_end(group)
            counts[place] += 1
            counts[-1] += 1
            if counts[-1] >= _HALVE_AT_CALLS:
                counts[:-1] = [count // 2 for count in counts[:-1]]
                counts[-1] = sum(counts[:-1])

    def median_tokens(self, task_type: str, model: str) -> int:
        """The output tokens that half of such calls stay within, of a model that is not known yet those of others on such
        work; UNKNOWN_USUAL_TOKENS before enough were seen."""
        for group in ((task_type, model), ("", model), (task_type, "")):
            counts = self._histograms.get(group)
            if counts is not None and counts[-1] >= _CALLS_MIN:
                known = self._medians.get(group)
                if known is None or known[0] != counts[-1] // _MEDIAN_REFRESH_CALLS:
                    known = self._medians[group] = (counts[-1] // _MEDIAN_REFRESH_CALLS, _quantile(counts, 0.5))
                return known[1]
        return DEFAULT_MEDIAN_TOKENS

    def expected_tokens(self, task_type: str, model: str) -> int:
        """The output tokens that QUANTILE of such calls stay within, rounded up to a bin's end."""
        for group in ((task_type, model), ("", model)):
            counts = self._histograms.get(group)
            if counts is not None and counts[-1] >= _CALLS_MIN:
                return _quantile(counts, EXPECTED_QUANTILE)
        return DEFAULT_EXPECTED_TOKENS


def _quantile(counts: list[int], share: float) -> int:
    wanted = counts[-1] * share
    for place, count in enumerate(counts[:-1]):
        wanted -= count
        if wanted <= 0:
            return math.ceil(2 ** ((place - 0.5) / _BINS_PER_OCTAVE)) if place else 1
    return math.ceil(2 ** (_BINS / _BINS_PER_OCTAVE))
