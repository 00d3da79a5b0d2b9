"""Parses Prometheus text of serving engines and power meters; pure.

vLLM and SGLang: sequences served concurrently. NVIDIA's DCGM exporter: joules since the driver was loaded.
"""

import re
from collections.abc import Iterator, Mapping

# `name{labels} value`; a timestamp may follow.
_LINE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?\s+([-+0-9.eEinfNa]+)(?:\s|$)")
_LABEL = re.compile(r'\s*([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"\s*,?')
# vLLM's figure includes sequences in prefill; SGLang's counts sequences in decode, once per tensor-parallel rank.
_VLLM, _SGLANG = "vllm:num_requests_running", ("sglang:num_running_reqs", "sglang_num_running_reqs")
_DCGM = ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION_total")
_MILLIJOULES_PER_JOULE = 1000.0
# DCGM's blank values are just below 2^63; a GPU at 1 kW reaches this limit after 300 years.
_MILLIJOULES_MAX = 1e16
# Further lines and longer lines are skipped; the longest real lines are below 1,000 characters.
_LINES_MAX, _LINE_CHARS_MAX = 50_000, 4096
# Beyond any real engine: DeepSeek's fleet serves about 3,000 on 8 GPUs (ML.ENERGY v3).
_RUNNING_MAX = 20_000.0


def running_requests(text: str) -> float | None:
    """Returns the mean concurrent sequences of busy replicas.

    0 if no replica is busy, None if the page has no such metric.
    """
    vllm: list[float] = []
    sglang: dict[str, float] = {}
    for name, labels, value in _samples(text, (_VLLM, *_SGLANG)):
        if name == _VLLM:
            vllm.append(value)
        elif not labels.get("priority"):
            replica = labels.get("dp_rank", "") + labels.get("engine_type", "") + labels.get("model_name", "")
            sglang[replica] = max(value, sglang.get(replica, 0.0))
    counts = vllm or list(sglang.values())
    if not counts or not 0 <= max(counts) <= _RUNNING_MAX:
        return None
    busy = [count for count in counts if count > 0]
    return sum(busy) / len(busy) if busy else 0.0


def gpu_joules(text: str, gpus: tuple[str, ...]) -> dict[str, float]:
    """Returns GPU (UUID, else host and index) -> joules since its driver was loaded.

    `gpus` selects by index or UUID (empty: all). MIG instances repeat the figure of their GPU, which counts once.
    """
    joules: dict[str, float] = {}
    for _, labels, value in _samples(text, _DCGM):
        index, uuid = labels.get("gpu", ""), labels.get("UUID", "")
        if gpus and index not in gpus and uuid not in gpus:
            continue
        if 0 <= value <= _MILLIJOULES_MAX:
            joules[uuid or f"{labels.get('Hostname', '')}/{index}"] = value / _MILLIJOULES_PER_JOULE
    return joules


def _samples(text: str, names: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """Yields (name, labels, value) of metrics with these names and a finite value."""
    for line in text.splitlines()[:_LINES_MAX]:
        if not line.startswith(names) or len(line) > _LINE_CHARS_MAX:
            continue
        match = _LINE.match(line)
        if match is None or match[1] not in names:
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        # False for infinities and NaN.
        if value - value == 0:
            yield match[1], _labels(match[2] or ""), value


def _labels(text: str) -> dict[str, str]:
    """Parses labels from left to right, up to the first invalid one."""
    labels, position = {}, 0
    while (match := _LABEL.match(text, position)) is not None:
        labels[match[1]], position = match[2], match.end()
    return labels
