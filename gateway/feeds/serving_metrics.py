"""What a serving engine and a power meter say of themselves in Prometheus' text format: vLLM and SGLang (sequences served
together), NVIDIA's DCGM exporter (joules since the driver was loaded). Pure: bytes in, figures out.
"""

import re
from collections.abc import Iterator, Mapping

# `name{labels} value`, without what may follow.
_LINE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?\s+([-+0-9.eEinfNa]+)(?:\s|$)")
_LABEL = re.compile(r'\s*([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"\s*,?')
# vLLM counts what is prefilled, too; SGLang what is decoded, once for each rank of tensor parallelism.
_VLLM, _SGLANG = "vllm:num_requests_running", ("sglang:num_running_reqs", "sglang_num_running_reqs")
_DCGM = ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION_total")
_MILLIJOULES_PER_JOULE = 1000.0
# DCGM's blanks are just below 2^63; a GPU at 1 kW takes 300 years to get here.
_MILLIJOULES_MAX = 1e16
# A page beyond this is read no further, nor is a line; the longest real ones are below 1,000 characters.
_LINES_MAX, _LINE_CHARS_MAX = 50_000, 4096
# No engine serves more together: DeepSeek's fleet has about 3,000 on 8 GPUs (ML.ENERGY v3).
_RUNNING_MAX = 20_000.0


def running_requests(text: str) -> float | None:
    """Sequences that a replica serves together at this moment, the mean of replicas that serve any (0 where none does); None
    where the page has no such figure."""
    vllm: list[float] = []
    sglang: dict[str, float] = {}
    for name, labels, value in _samples(text, (_VLLM, *_SGLANG)):
        if name == _VLLM:
            vllm.append(value)
        elif not labels.get("priority"):
            replica = labels.get("dp_rank", "") + labels.get("engine_type", "") + labels.get("model_name", "")
            sglang[replica] = max(value, sglang.get(replica, 0.0))
    found = vllm or list(sglang.values())
    if not found or not 0 <= max(found) <= _RUNNING_MAX:
        return None
    busy = [one for one in found if one > 0]
    return sum(busy) / len(busy) if busy else 0.0


def gpu_joules(text: str, gpus: tuple[str, ...]) -> dict[str, float]:
    """GPU (its UUID, else its index) -> joules since its driver was loaded; `gpus` are the ones that count, by index or UUID
    (empty: all). Instances of one GPU repeat its figure: it counts once."""
    found: dict[str, float] = {}
    for _, labels, value in _samples(text, _DCGM):
        index, uuid = labels.get("gpu", ""), labels.get("UUID", "")
        if gpus and index not in gpus and uuid not in gpus:
            continue
        if 0 <= value <= _MILLIJOULES_MAX:
            found[uuid or f"{labels.get('Hostname', '')}/{index}"] = value / _MILLIJOULES_PER_JOULE
    return found


def _samples(text: str, names: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """(name, labels, value) of the lines with one of these names; what is no number is left out."""
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
        # What is not finite is nobody's count.
        if value - value == 0:
            yield match[1], _labels(match[2] or ""), value


def _labels(text: str) -> dict[str, str]:
    """Labels from left to right, up to what is none."""
    found, at = {}, 0
    while (match := _LABEL.match(text, at)) is not None:
        found[match[1]], at = match[2], match.end()
    return found
