"""Measures prefill, cached prefill and decoding on this machine's GPU and compares them with the shipped formula.

    python loadtest/energy/measure.py [--seconds N] [--json OUT]

Decoders with random weights (Llama's architecture: RMSNorm, rotary positions, grouped queries, SwiGLU; bf16) on one
GPU, over sizes, batches, prompts and cached shares, by the GPU's own energy counter. Nothing is subtracted: the
counter includes idle power, which is printed as well. Plain torch kernels, decoding as one CUDA graph a step, no
scheduler and no host: a lower bound for a server. Needs an NVIDIA GPU, torch and nvidia-ml-py, which Penstock does not
install; without them it prints what is missing and measures nothing.
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
    """A decoder's sizes, from its model card.

    tied: output weights are the embedding's
    """

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
# Base of the rotary positions (Llama 3), and deviation of the random weights (the usual initialization).
_ROTARY_BASE, _DEVIATION = 500_000.0, 0.02
BATCHES, PROMPTS, CACHED = (1, 8, 32, 128), (512, 2048, 8192, 32_768), (0.5, 0.9)
# Most tokens of one pass: servers split prompts finer (vLLM 0.11: 2,048 to 8,192); more only costs memory.
_PASS_TOKENS = 65_536
# Shorter passes leave the GPU partly idle; a server fills them up, so prefill coefficients are not fitted to them.
_FULL_PASS_TOKENS = 2048
# NVML updates its readings every 0.1 s or more often, from a part of that time (Yang et al., 2024): 2 s of constant
# work are accurate to about 5 %. Work is queued in bursts of _BURST_SECONDS.
_CELL_SECONDS, _WARM_SECONDS, _BURST_SECONDS = 2.0, 0.3, 0.2
# Coefficients by the cells that determine them.
PREFILL = ("_PREFILL_JOULES", "_ATTENTION_FACTOR", "_CACHED_COST_SHARES")
DECODE = ("_JOULES_PER_GB", "_STEP_JOULES", "_COMPUTE_JOULES", "_FIXED_JOULES", "_CONTEXT_JOULES")


class Cell(NamedTuple):
    """One kind of pass: prompts of which a part is cached, or one decoded token per sequence.

    kind: prefill, cached or decode
    batch: sequences
    context: tokens of each sequence, the decoded token included
    cached: tokens of each sequence that are in the KV cache
    """

    kind: str
    batch: int
    context: int
    cached: int

    @property
    def fresh(self) -> int:
        """Tokens computed in the pass."""
        return self.batch * (self.context - self.cached)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Joules and seconds of one pass of a cell on a model, as means over `passes`."""

    model: str
    params_b: float
    cell: Cell
    passes: int
    seconds: float
    joules: float


class Machine:
    """The GPU: energy counter, work queue, memory."""

    device = "cuda"

    def __init__(self, torch: Any, causal: Any, nvml: Nvml) -> None:
        self.torch, self.causal = torch, causal
        properties = torch.cuda.get_device_properties(0)
        self.name = properties.name
        self._nvml, self._uuid = nvml, f"GPU-{properties.uuid}"

    def joules(self) -> float:
        """Energy since the driver was loaded. Raises OSError where the GPU has no counter."""
        joules = self._nvml.joules((self._uuid,))
        if not joules:
            raise OSError(f"no NVML energy counter for {self.name}, {self._uuid}")
        return joules[self._uuid]

    def wait(self) -> None:
        """Wait until all queued work is done."""
        self.torch.cuda.synchronize()

    def recorded(self, step: Callable[[], Any]) -> Callable[[], Any]:
        """The step as one CUDA graph; launched kernel by kernel, a small model would wait for the host."""
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
        """Bytes that can still be allocated."""
        self.torch.cuda.empty_cache()
        return self.torch.cuda.mem_get_info()[0]


def opened() -> Machine | str:
    """The machine, or the reason why there is none."""
    # Imported here: only this program uses torch. gateway/feeds/nvml.py imports NVML lazily as well.
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
        """Parameters in 1e9, without the norms."""
        weights = [self.embedding, *(weight for layer in self.layers for weight in layer)]
        return sum(weight.numel() for weight in weights + [self.head] * (not self.shape.tied)) / 1e9

    def cache(self, batch: int, capacity: int) -> list[tuple[Any, Any]]:
        """Random keys and values of each layer: the KV cache of an earlier prefix."""
        sizes = (batch, self.shape.kv_heads, capacity, self.shape.head_width)
        return [(self._random(*sizes), self._random(*sizes)) for _ in self.layers]

    def tokens(self, batch: int, count: int) -> Any:
        """Random token ids."""
        return self._torch.randint(self.shape.vocabulary, (batch, count), device=self.machine.device)

    def logits(self, tokens: Any, cache: Sequence[tuple[Any, Any]], begin: int) -> Any:
        """Logits of each sequence's next token after `tokens`, which begin at position `begin`; extends the cache."""
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
        """Causal attention of the new tokens to all tokens up to themselves."""
        batch, count, _ = mixed.shape
        shape, end = self.shape, begin + count
        heads = mixed.view(batch, count, -1, shape.head_width).transpose(1, 2)
        query, key, value = heads.split((shape.heads, shape.kv_heads, shape.kv_heads), 1)
        keys[:, :, begin:end] = self._turned(key, begin)
        values[:, :, begin:end] = value
        # torch's `is_causal` aligns the first keys; behind a cached prefix the last keys must align.
        mask = self.machine.causal(count, end) if count > 1 else None
        attended = self._functional.scaled_dot_product_attention(
            self._turned(query, begin), keys[:, :, :end], values[:, :, :end], attn_mask=mask, enable_gqa=True
        )
        return attended.transpose(1, 2).reshape(batch, count, -1)


def grid() -> list[Cell]:
    """All cells in a fixed random order, so that a time limit drops no single kind and GPU warm-up is no trend."""
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
    """Measures every cell of every model that memory and time allow; the time is shared between the models."""
    deadline = time.monotonic() + seconds
    for place, shape in enumerate(shapes):
        until = time.monotonic() + (deadline - time.monotonic()) / (len(shapes) - place)
        yield from _of_shape(machine, shape, until)


def _of_shape(machine: Machine, shape: Shape, until: float) -> Iterator[Measured]:
    done, large, late = 0, 0, 0
    try:
        transformer = Transformer(machine, shape, machine.torch.bfloat16)
    except machine.torch.OutOfMemoryError:
        print(f"{shape.name}: does not fit into memory", file=sys.stderr)
        return
    for cell in grid():
        if time.monotonic() + _CELL_SECONDS > until:
            late += 1
        elif _cache_bytes(shape, cell) > machine.free_bytes():
            large += 1
        else:
            try:
                measured = _measured(machine, transformer, cell)
            except machine.torch.OutOfMemoryError:
                large += 1
                continue
            done += 1
            yield measured
    print(f"{shape.name}: {done} cells, {large} too large for memory, {late} out of time", file=sys.stderr)


def _cache_bytes(shape: Shape, cell: Cell) -> int:
    return 2 * shape.layers * shape.kv_heads * shape.head_width * _BYTES * cell.batch * cell.context


def _measured(machine: Machine, transformer: Transformer, cell: Cell) -> Measured:
    tokens = transformer.tokens(cell.batch, cell.context - cell.cached)
    cache = transformer.cache(cell.batch, cell.context)

    def step() -> Any:
        return transformer.logits(tokens, cache, cell.cached).argmax(-1)

    with machine.torch.no_grad():
        passes, seconds, joules = _counted(machine, machine.recorded(step) if cell.kind == "decode" else step)
    return Measured(
        model=transformer.shape.name,
        params_b=transformer.params_b,
        cell=cell,
        passes=passes,
        seconds=seconds / passes,
        joules=joules / passes,
    )


def _counted(machine: Machine, step: Callable[[], Any]) -> tuple[int, float, float]:
    """(passes, seconds, joules) of at least _CELL_SECONDS, after a warm-up."""
    begun = time.monotonic()
    step()
    machine.wait()
    burst = max(1, round(_BURST_SECONDS / (time.monotonic() - begun)))
    _repeated(machine, step, burst, _WARM_SECONDS - (time.monotonic() - begun))
    begun, before = time.monotonic(), machine.joules()
    passes = _repeated(machine, step, burst, _CELL_SECONDS)
    return passes, time.monotonic() - begun, machine.joules() - before


def _repeated(machine: Machine, step: Callable[[], Any], burst: int, seconds: float) -> int:
    """Runs the step in bursts for so many seconds and returns the number of passes."""
    begun, passes = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        for _ in range(burst):
            step()
        machine.wait()
        passes += burst
    return passes


def idle_watts(machine: Machine) -> float:
    """Watts with the driver's context open and nothing running."""
    machine.wait()
    begun, before = time.monotonic(), machine.joules()
    time.sleep(_CELL_SECONDS)
    return (machine.joules() - before) / (time.monotonic() - begun)


def estimates(formula: Any, measured: Measured, hardware: str) -> tuple[float, float, float]:
    """Low, mid and high joules of the pass, by the shipped formula or a copy of it with other coefficients."""
    cell = measured.cell
    profile = EnergyProfile(
        active_params_b=measured.params_b, total_params_b=measured.params_b, bytes_per_param=_BYTES, hardware=hardware,
        gpus=1, engine="2025", concurrency=cell.batch,
    )  # fmt: skip
    low, mid, high = (
        cell.batch * (model.per_output + model.per_output_context * cell.context)
        if cell.kind == "decode"
        else cell.batch * model.accelerator_joules(cell.context, cell.cached, 0)
        for model in formula.energy_models(profile)
    )
    return low, mid, high


def refitted(cells: Sequence[Measured], names: Sequence[str], hardware: str) -> dict[str, float]:
    """Coefficients fitted to these cells, all others as shipped; a weak prior keeps those that the cells leave open."""
    start = np.log([shipped_value(name) for name in names])

    def errors(logs: np.ndarray) -> np.ndarray:
        formula = shipped_with(dict(zip(names, np.exp(logs).tolist(), strict=True))).energy
        log_ratios = [math.log2(estimates(formula, cell, hardware)[1] / cell.joules) for cell in cells]
        return np.concatenate([log_ratios, WEAK_PRIOR * (logs - start)])

    return dict(zip(names, np.exp(solve(errors, start)).tolist(), strict=True))


def _cells(results: Sequence[Measured], hardware: str) -> str:
    rows = []
    for result in results:
        cell, (low, mid, high) = result.cell, estimates(energy, result, hardware)
        rows.append(
            (
                result.model, cell.kind, f"{cell.batch}", f"{cell.context:,}",
                f"{cell.cached / cell.context:.0%}" if cell.kind == "cached" else "-",
                f"{result.passes}", f"{result.seconds * 1000:.2f}", f"{result.joules / result.seconds:.0f}",
                f"{result.joules / cell.fresh:.4g}", f"{mid / cell.fresh:.4g}",
                f"{math.log2(mid / result.joules):+.2f}",
                "yes" if low <= result.joules <= high else "no",
            )
        )  # fmt: skip
    head = ("", "", "batch", "context", "cached", "passes", "ms", "W", "J/token", "shipped", "log2", "in band")
    return table("Cells: joules per computed token, log2 of the shipped formula over the counter", head, rows)


def _by_kind(results: Sequence[Measured], hardware: str) -> str:
    rows = []
    for model, kind in sorted({(result.model, result.cell.kind) for result in results}):
        group = [result for result in results if (result.model, result.cell.kind) == (model, kind)]
        logs = [math.log2(estimates(energy, result, hardware)[1] / result.joules) for result in group]
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
    return table("Coefficients: shipped, and fitted to these cells", head, rows)


def main() -> None:
    """Measure, print the tables, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=480.0, help="total duration, to within one cell (default: 480)"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all results as JSON")
    args = parser.parse_args()
    machine = opened()
    if isinstance(machine, str):
        print(f"Nothing measured: {machine}. An NVIDIA GPU, torch and nvidia-ml-py are required.")
        return
    report(machine, SHAPES, args.seconds, args.json)


def report(machine: Machine, shapes: Sequence[Shape], seconds: float, out: Path | None) -> None:
    """Runs the whole measurement and prints it as tables; writes JSON to `out`."""
    hardware = next((name for name in energy.HARDWARE if name in machine.name.lower()), energy.DEFAULT_HARDWARE)
    idle = idle_watts(machine)
    print(f"{machine.name}, estimated as {hardware}; idle {idle:.0f} W\n")
    results = list(sweep(machine, shapes, seconds))
    if not results:
        print("Not enough time or memory for a single cell.")
        return
    full = [result for result in results if result.cell.kind != "decode" and result.cell.fresh >= _FULL_PASS_TOKENS]
    steps = [result for result in results if result.cell.kind == "decode"]
    groups = [(len(cells), refitted(cells, names, hardware)) for cells, names in ((full, PREFILL), (steps, DECODE))]
    print(_cells(results, hardware))
    print(_by_kind(results, hardware))
    print(_coefficients(groups))
    if out is not None:
        document = {
            "gpu": machine.name, "hardware": hardware, "method": energy.METHOD, "idle_watts": idle,
            "coefficients": {name: value for _, values in groups for name, value in values.items()},
            "cells": [{**asdict(result), "cell": result.cell._asdict()} for result in results],
        }  # fmt: skip
        out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
