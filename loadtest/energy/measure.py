"""What prefill, cached prefill and decoding cost on this machine's GPU, by its own energy counter, beside the shipped formula.

    python loadtest/energy/measure.py [--seconds N] [--json OUT]

Decoders of random weights (Llama's kind: RMSNorm, rotary positions, grouped queries, SwiGLU; bf16) on one GPU, over sizes,
batches, prompts and cached shares. Nothing is subtracted: the counter includes what the GPU takes when idle, which is told beside
it. Plain torch kernels, decoding as one CUDA graph a step, no scheduler and no host: a floor for what a server does. Needs an NVIDIA
GPU, torch and nvidia-ml-py, which the gateway does not bring; says so and measures nothing without them.
"""

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fit import WEAK_PRIOR, shipped_value, shipped_with, solve, spread

from gateway.carbon import energy
from gateway.feeds.nvml import Nvml
from gateway.offline.evaluation.report import table
from gateway.values.catalog import EnergyProfile


class Shape(NamedTuple):
    """A decoder's sizes, as its model card has them."""

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    vocabulary: int
    tied: bool


SHAPES = (
    Shape("Llama-3.2-1B", 16, 2048, 32, 8, 64, 8192, 128_256, True),
    Shape("Llama-3.2-3B", 28, 3072, 24, 8, 128, 8192, 128_256, True),
    Shape("Llama-3.1-8B", 32, 4096, 32, 8, 128, 14336, 128_256, False),
    Shape("Qwen3-32B", 64, 5120, 64, 8, 128, 25600, 151_936, False),
)
_BYTES = 2
# Rotary positions' base (Llama 3), and the deviation of the random weights (the usual initialisation).
_ROTARY_BASE, _DEVIATION = 500_000.0, 0.02
BATCHES, PROMPTS, CACHED = (1, 8, 32, 128), (512, 2048, 8192, 32_768), (0.5, 0.9)
# Tokens of one pass, at most: servers split prompts finer (vLLM 0.11: 2,048 to 8,192), beyond that only memory is lost.
_PASS_TOKENS = 65_536
# Passes of fewer tokens leave the GPU partly idle; a server fills them up, so no coefficient of prefill is taken from them.
_FULL_PASS_TOKENS = 2048
# NVML's readings move every 0.1 s or oftener, from a part of that time (Yang et al., 2024): 2 s of the same work are right to
# about 5 %. Work is queued for so long at a time.
_CELL_SECONDS, _WARM_SECONDS, _BURST_SECONDS = 2.0, 0.3, 0.2
# Coefficients by the cells that tell of them.
PREFILL = ("_PREFILL_JOULES", "_ATTENTION", "_CACHED_SHARE")
DECODE = ("_JOULES_PER_GB", "_STEP_JOULES", "_COMPUTE_JOULES", "_FIXED_JOULES", "_CONTEXT_JOULES")


class Cell(NamedTuple):
    """A pass: `batch` prompts of which so many tokens lie in the KV cache, or one token each after so long a context."""

    kind: str
    batch: int
    context: int
    cached: int

    @property
    def fresh(self) -> int:
        """Tokens that are run."""
        return self.batch * (self.context - self.cached)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A cell on a model: joules and seconds of one pass, mean of so many."""

    model: str
    params_b: float
    cell: Cell
    passes: int
    seconds: float
    joules: float


class Machine:
    """The GPU: its counter, its queue, its memory."""

    device = "cuda"

    def __init__(self, torch: Any, causal: Any, nvml: Nvml) -> None:
        self.torch, self.causal = torch, causal
        properties = torch.cuda.get_device_properties(0)
        self.name = properties.name
        self._nvml, self._uuid = nvml, f"GPU-{properties.uuid}"

    def joules(self) -> float:
        """Since the driver was loaded. Raises OSError where the GPU does not count."""
        found = self._nvml.joules((self._uuid,))
        if not found:
            raise OSError(f"NVML does not know {self.name}, {self._uuid}")
        return found[self._uuid]

    def wait(self) -> None:
        """Until all that was queued is done."""
        self.torch.cuda.synchronize()

    def recorded(self, step: Callable[[], Any]) -> Callable[[], Any]:
        """The step as one graph: launched kernel by kernel, a small model waits for the host."""
        stream = self.torch.cuda.Stream()
        stream.wait_stream(self.torch.cuda.current_stream())
        with self.torch.cuda.stream(stream):
            for _ in range(3):
                step()
        self.torch.cuda.current_stream().wait_stream(stream)
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            step()
        return graph.replay

    def free_bytes(self) -> int:
        """What can still be allocated."""
        self.torch.cuda.empty_cache()
        return self.torch.cuda.mem_get_info()[0]


def opened() -> Machine | str:
    """The machine, or why there is none."""
    # Lazy doors: only this program wants torch; gateway/feeds/nvml.py opens NVML as lazily.
    try:
        import torch  # noqa: PLC0415
        from torch.nn.attention.bias import causal_lower_right  # noqa: PLC0415
    except ImportError:
        return "torch is not installed"
    if not torch.cuda.is_available() or torch.version.cuda is None:
        return "torch sees no NVIDIA GPU"
    try:
        machine = Machine(torch, causal_lower_right, Nvml())
        machine.joules()
    except ImportError:
        return "nvidia-ml-py (pynvml) is not installed"
    except OSError as error:
        return str(error)
    return machine


class Transformer:
    """A decoder with random weights."""

    def __init__(self, machine: Machine, shape: Shape, dtype: Any) -> None:
        self.machine, self.shape, self.dtype = machine, shape, dtype
        self._torch, self._functional = machine.torch, machine.torch.nn.functional
        self.embedding = self._random(shape.vocabulary, shape.width)
        self.layers = [self._layer() for _ in range(shape.layers)]
        self.head = self.embedding if shape.tied else self._random(shape.vocabulary, shape.width)
        self._unit = self._torch.ones(shape.width, device=machine.device, dtype=dtype)
        self._cosines, self._sines = self._rotary()

    @property
    def params_b(self) -> float:
        """Parameters in 1e9, the norms' apart."""
        weights = [self.embedding, *(weight for layer in self.layers for weight in layer)]
        return sum(weight.numel() for weight in weights + [self.head] * (not self.shape.tied)) / 1e9

    def cache(self, batch: int, capacity: int) -> list[tuple[Any, Any]]:
        """Keys and values of each layer, at random: a prefix that was run before."""
        sizes = (batch, self.shape.kv_heads, capacity, self.shape.head_width)
        return [(self._random(*sizes), self._random(*sizes)) for _ in self.layers]

    def tokens(self, batch: int, count: int) -> Any:
        """At random."""
        return self._torch.randint(self.shape.vocabulary, (batch, count), device=self.machine.device)

    def logits(self, tokens: Any, cache: Sequence[tuple[Any, Any]], begin: int) -> Any:
        """Of each sequence's next token, after these from position `begin` on; the cache takes their keys and values."""
        stream = self.embedding[tokens]
        for (attend_in, attend_out, feed_in, feed_out), (keys, values) in zip(self.layers, cache, strict=True):
            query = self._functional.linear(self._normed(stream), attend_in)
            stream = stream + self._functional.linear(self._attended(query, keys, values, begin), attend_out)
            gate, up = self._functional.linear(self._normed(stream), feed_in).chunk(2, -1)
            stream = stream + self._functional.linear(self._functional.silu(gate).mul_(up), feed_out)
        return self._functional.linear(self._normed(stream[:, -1]), self.head)

    def _layer(self) -> tuple[Any, Any, Any, Any]:
        shape = self.shape
        inner, outer = shape.heads * shape.head_width, (shape.heads + 2 * shape.kv_heads) * shape.head_width
        return (
            self._random(outer, shape.width),
            self._random(shape.width, inner),
            self._random(2 * shape.hidden, shape.width),
            self._random(shape.width, shape.hidden),
        )

    def _random(self, *sizes: int) -> Any:
        return self._torch.empty(sizes, device=self.machine.device, dtype=self.dtype).normal_(0, _DEVIATION)

    def _normed(self, stream: Any) -> Any:
        return self._functional.rms_norm(stream, (self.shape.width,), self._unit, 1e-5)

    def _rotary(self) -> tuple[Any, Any]:
        torch, half = self._torch, self.shape.head_width // 2
        speeds = _ROTARY_BASE ** -(torch.arange(half, device=self.machine.device) / half)
        angles = torch.outer(torch.arange(max(PROMPTS), device=self.machine.device), speeds)
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)

    def _turned(self, heads: Any, begin: int) -> Any:
        end = begin + heads.shape[2]
        cosines, sines = self._cosines[begin:end], self._sines[begin:end]
        left, right = heads.chunk(2, -1)
        return self._torch.cat((left * cosines - right * sines, right * cosines + left * sines), -1)

    def _attended(self, mixed: Any, keys: Any, values: Any, begin: int) -> Any:
        """Attention of the new tokens to all up to themselves."""
        batch, count, _ = mixed.shape
        shape, end = self.shape, begin + count
        heads = mixed.view(batch, count, -1, shape.head_width).transpose(1, 2)
        query, key, value = heads.split((shape.heads, shape.kv_heads, shape.kv_heads), 1)
        keys[:, :, begin:end] = self._turned(key, begin)
        values[:, :, begin:end] = value
        # torch's `is_causal` counts from the first key; behind a cached prefix the last ones must meet.
        mask = self.machine.causal(count, end) if count > 1 else None
        found = self._functional.scaled_dot_product_attention(
            self._turned(query, begin), keys[:, :, :end], values[:, :, :end], attn_mask=mask, enable_gqa=True
        )
        return found.transpose(1, 2).reshape(batch, count, -1)


def grid() -> list[Cell]:
    """All cells, in a fixed random order: what time cuts off is then no one kind, and a GPU that warms up no trend."""
    cells = [Cell("prefill", batch, prompt, 0) for batch, prompt in product(BATCHES, PROMPTS)]
    cells += [
        Cell("cached", batch, prompt, round(share * prompt))
        for batch, prompt, share in product(BATCHES[:2], PROMPTS[1:], CACHED)
    ]
    cells = [cell for cell in cells if cell.fresh <= _PASS_TOKENS]
    cells += [Cell("decode", batch, context, context - 1) for batch, context in product(BATCHES, PROMPTS)]
    random.Random(0).shuffle(cells)
    return cells


def sweep(machine: Machine, shapes: Sequence[Shape], seconds: float) -> Iterator[Measured]:
    """Every cell of every model that memory and time allow, each model with its part of the time."""
    deadline = time.monotonic() + seconds
    for place, shape in enumerate(shapes):
        until = time.monotonic() + (deadline - time.monotonic()) / (len(shapes) - place)
        yield from _of_shape(machine, shape, until)


def _of_shape(machine: Machine, shape: Shape, until: float) -> Iterator[Measured]:
    done, large, late = 0, 0, 0
    try:
        transformer = Transformer(machine, shape, machine.torch.bfloat16)
    except machine.torch.OutOfMemoryError:
        print(f"{shape.name}: does not fit", file=sys.stderr)
        return
    for cell in grid():
        if time.monotonic() + _CELL_SECONDS > until:
            late += 1
        elif _cache_bytes(shape, cell) > machine.free_bytes():
            large += 1
        else:
            try:
                one = _measured(machine, transformer, cell)
            except machine.torch.OutOfMemoryError:
                large += 1
                continue
            done += 1
            yield one
    print(f"{shape.name}: {done} cells, {large} too large for memory, {late} too late", file=sys.stderr)


def _cache_bytes(shape: Shape, cell: Cell) -> int:
    return 2 * shape.layers * shape.kv_heads * shape.head_width * _BYTES * cell.batch * cell.context


def _measured(machine: Machine, transformer: Transformer, cell: Cell) -> Measured:
    tokens = transformer.tokens(cell.batch, cell.context - cell.cached)
    cache = transformer.cache(cell.batch, cell.context)

    def one() -> Any:
        return transformer.logits(tokens, cache, cell.cached).argmax(-1)

    with machine.torch.no_grad():
        passes, seconds, joules = _counted(machine, machine.recorded(one) if cell.kind == "decode" else one)
    return Measured(
        model=transformer.shape.name,
        params_b=transformer.params_b,
        cell=cell,
        passes=passes,
        seconds=seconds / passes,
        joules=joules / passes,
    )


def _counted(machine: Machine, one: Callable[[], Any]) -> tuple[int, float, float]:
    """(passes, seconds, joules) of at least _CELL_SECONDS, after a warm-up."""
    begun = time.monotonic()
    one()
    machine.wait()
    burst = max(1, round(_BURST_SECONDS / (time.monotonic() - begun)))
    _repeated(machine, one, burst, _WARM_SECONDS - (time.monotonic() - begun))
    begun, before = time.monotonic(), machine.joules()
    passes = _repeated(machine, one, burst, _CELL_SECONDS)
    return passes, time.monotonic() - begun, machine.joules() - before


def _repeated(machine: Machine, one: Callable[[], Any], burst: int, seconds: float) -> int:
    begun, passes = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        for _ in range(burst):
            one()
        machine.wait()
        passes += burst
    return passes


def idle_watts(machine: Machine) -> float:
    """With the driver's context open and nothing running."""
    machine.wait()
    begun, before = time.monotonic(), machine.joules()
    time.sleep(_CELL_SECONDS)
    return (machine.joules() - before) / (time.monotonic() - begun)


def estimates(formula: Any, one: Measured, hardware: str) -> tuple[float, float, float]:
    """Low, mid and high joules of the pass, by the shipped formula or a copy of it with other coefficients."""
    cell = one.cell
    profile = EnergyProfile(
        active_params_b=one.params_b, total_params_b=one.params_b, bytes_per_param=_BYTES, hardware=hardware, gpus=1,
        engine="2025", concurrency=cell.batch,
    )  # fmt: skip
    low, mid, high = (
        cell.batch * (model.per_output + model.per_output_context * cell.context)
        if cell.kind == "decode"
        else cell.batch * model.accelerator_joules(cell.context, cell.cached, 0)
        for model in formula.model_of(profile)
    )
    return low, mid, high


def refitted(found: Sequence[Measured], names: Sequence[str], hardware: str) -> dict[str, float]:
    """The coefficients that these cells ask for, all others as shipped; a weak prior holds what they leave open."""
    start = np.log([shipped_value(name) for name in names])

    def errors(logs: np.ndarray) -> np.ndarray:
        formula = shipped_with(dict(zip(names, np.exp(logs).tolist(), strict=True))).energy
        off = [math.log2(estimates(formula, one, hardware)[1] / one.joules) for one in found]
        return np.concatenate([off, WEAK_PRIOR * (logs - start)])

    return dict(zip(names, np.exp(solve(errors, start)).tolist(), strict=True))


def _cells(found: Sequence[Measured], hardware: str) -> str:
    rows = []
    for one in found:
        cell, (low, mid, high) = one.cell, estimates(energy, one, hardware)
        rows.append(
            (
                one.model, cell.kind, f"{cell.batch}", f"{cell.context:,}", f"{cell.cached / cell.context:.0%}" if cell.kind == "cached" else "-",
                f"{one.passes}", f"{one.seconds * 1000:.2f}", f"{one.joules / one.seconds:.0f}",
                f"{one.joules / cell.fresh:.4g}", f"{mid / cell.fresh:.4g}", f"{math.log2(mid / one.joules):+.2f}",
                "yes" if low <= one.joules <= high else "no",
            )
        )  # fmt: skip
    head = ("", "", "batch", "context", "cached", "passes", "ms", "W", "J/token", "shipped", "log2", "in band")
    return table("Cells: joules a token that is run, log2 of the shipped formula over the counter", head, rows)


def _by_kind(found: Sequence[Measured], hardware: str) -> str:
    rows = []
    for model, kind in sorted({(one.model, one.cell.kind) for one in found}):
        chosen = [one for one in found if (one.model, one.cell.kind) == (model, kind)]
        logs = [math.log2(estimates(energy, one, hardware)[1] / one.joules) for one in chosen]
        rows.append((model, kind, *spread(logs)))
    return table("The same, by model", ("", "", "n", "median", "p90", "bias"), rows)


def _coefficients(groups: Sequence[tuple[int, dict[str, float]]]) -> str:
    rows = [
        (
            name,
            f"{shipped_value(name):.4g}",
            f"{value:.4g}",
            f"{math.log2(shipped_value(name) / value):+.2f}",
            f"{count}",
        )
        for count, values in groups
        for name, value in values.items()
    ]
    head = ("", "shipped", "this GPU", "log2", "cells")
    return table("Coefficients: as shipped, and as these cells ask for", head, rows)


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=480.0, help="in all, to within one cell (default: 480)")
    parser.add_argument("--json", type=Path, metavar="OUT")
    asked = parser.parse_args()
    machine = opened()
    if isinstance(machine, str):
        print(f"Nothing is measured here: {machine}. It takes an NVIDIA GPU, torch and nvidia-ml-py.")
        return
    report(machine, SHAPES, asked.seconds, asked.json)


def report(machine: Machine, shapes: Sequence[Shape], seconds: float, out: Path | None) -> None:
    """The whole measurement, as tables and as JSON."""
    hardware = next((name for name in energy.HARDWARE if name in machine.name.lower()), energy.DEFAULT_HARDWARE)
    idle = idle_watts(machine)
    print(f"{machine.name}, taken for {hardware}; idle {idle:.0f} W\n")
    found = list(sweep(machine, shapes, seconds))
    if not found:
        print("Neither time nor memory sufficed for a single cell.")
        return
    full = [one for one in found if one.cell.kind != "decode" and one.cell.fresh >= _FULL_PASS_TOKENS]
    steps = [one for one in found if one.cell.kind == "decode"]
    groups = [(len(cells), refitted(cells, names, hardware)) for cells, names in ((full, PREFILL), (steps, DECODE))]
    print(_cells(found, hardware))
    print(_by_kind(found, hardware))
    print(_coefficients(groups))
    if out is not None:
        document = {
            "gpu": machine.name, "hardware": hardware, "method": energy.METHOD, "idle_watts": idle,
            "coefficients": {name: value for _, values in groups for name, value in values.items()},
            "cells": [{**asdict(one), "cell": one.cell._asdict()} for one in found],
        }  # fmt: skip
        out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
