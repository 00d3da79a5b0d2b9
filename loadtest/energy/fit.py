"""Fits the coefficients of gateway/carbon/energy.py and concurrency.py; errors on model families left out.

    python loadtest/energy/fit.py DIR

DIR holds mlenergy_v3_llm.csv, mlenergy_v2_llm.csv and truth.csv. The shipped formulas themselves are fitted: they are
sums, so a feature of a point is the shipped code's result with one coefficient at 1 and the others at 0. Exit status 1
if a fitted coefficient differs from the shipped one.
"""

import argparse
import importlib.util
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import NamedTuple

import numpy as np

from gateway.carbon import concurrency, energy
from gateway.offline.evaluation.energy.benchmark import SUBSETS, profile_of
from gateway.offline.evaluation.energy.published_figures import PublishedFigure, load_figures, quantile
from gateway.offline.evaluation.report import table
from gateway.values.catalog import EnergyProfile

FILES = ("mlenergy_v3_llm.csv", "mlenergy_v2_llm.csv", "truth.csv")
# Part of a model's name -> its base weights. Post-trained, requantized or renamed versions are one family: a fit that
# used one has used the sizes of all. A name without an entry is a family of its own. Sources: the models' cards.
BASES = {
    "DeepSeek-R1-0528": "DeepSeek-V3", "DeepSeek-V3.1": "DeepSeek-V3", "Llama-3.1-405B": "Llama-3.1-405B",
    "Llama-3.1-70B": "Llama-3.1-70B", "Llama-3.3-70B": "Llama-3.1-70B", "Llama-3.1-8B": "Llama-3.1-8B",
    "Qwen3-30B-A3B": "Qwen3-30B-A3B", "Qwen3-Coder-30B-A3B": "Qwen3-30B-A3B",
}  # fmt: skip

# Coefficient as the shipped modules name it -> center of its weak prior: the right order of magnitude, chosen once.
STEP = {"_JOULES_PER_GB": 0.2, "_STEP_JOULES": 0.4}
TOKEN = {
    "_COMPUTE_JOULES": 0.002, "_FIXED_JOULES": 0.03, "_COLLECTIVE_JOULES": 0.04, "_CONTEXT_JOULES": 0.005,
    "_PREFILL_JOULES": 0.003,
}  # fmt: skip
ENERGY_FACTORS = {"b200.per_token": 0.9, "b200.per_step": 1.05, "_OLDER_ENGINE_FACTOR": 1.55}
PER_STEP = {"_LAYER_MS": 2.0, "_STREAM_MS": 0.4, "_SYNCHRONISATION_MS": 0.0005}
SEQUENCE = {"_FLOP_MS": 0.002, "_CONTEXT_MS": 0.005, "_SEQUENCE_MS": 0.02}
LATENCY_FACTORS = {"b200.per_sequence": 0.8}
# Weight of the prior: the log2 error that a factor of e from the center counts as.
WEAK_PRIOR = 0.03
# Prompts of 150 tokens hardly determine prefill: a strong prior keeps it at production figures (carbon/energy.py).
_PREFILL_CENTER, _PREFILL_PRIOR = 0.0035, 0.7
# log2 error above which the loss grows linearly.
_SOFT = 0.4
# Largest relative difference between a fitted and a shipped coefficient; shipped ones have two digits or more.
_TOLERANCE = 0.03

Errors = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A least-error problem: coefficients and factors that reproduce the measured values.

    names: coefficients (one per column), then factors
    families: family of each point
    features: (point, column); the sum over columns of coefficient times feature, times the factors, is `measured`
    masks: (factor, point, column), 1 where the factor applies
    measured: joules per request, or ms between tokens
    prior: (center, weight) of each coefficient's logarithm; several add up
    """

    names: tuple[str, ...]
    families: np.ndarray
    features: np.ndarray
    masks: np.ndarray
    measured: np.ndarray
    prior: Sequence[tuple[np.ndarray, np.ndarray]]

    def predicted(self, logs: np.ndarray) -> np.ndarray:
        """Predicted values in the unit of `measured`, by logarithms of coefficients and factors."""
        columns = self.features.shape[1]
        factors = np.exp(np.tensordot(logs[columns:], self.masks, 1))
        return (self.features * factors) @ np.exp(logs[:columns])

    def fitted(self, without: str = "") -> dict[str, float]:
        """Coefficients by soft L1 of log2, families weighted equally, the family `without` left out."""
        kept = self.families != without
        sizes = Counter(self.families[kept])
        weights = np.array([sizes[family] ** -0.5 for family in self.families[kept]])
        weights /= weights.mean()

        def errors(logs: np.ndarray) -> np.ndarray:
            log_ratios = np.log2(self.predicted(logs) / self.measured)[kept]
            return np.concatenate([weights * log_ratios, *(weight * (logs - center) for center, weight in self.prior)])

        return dict(zip(self.names, np.exp(solve(errors, self.prior[0][0])).tolist(), strict=True))


def solve(errors: Errors, start: np.ndarray) -> np.ndarray:
    """Minimizes the soft L1 of the errors: Levenberg-Marquardt, reweighted at each step, numeric Jacobian."""
    position, residuals, damping = start, errors(start), 1e-3
    for _ in range(500):
        root = (1 + (residuals / _SOFT) ** 2) ** -0.25
        offsets = 1e-5 * np.eye(len(position))
        slopes = [(errors(position + offset) - errors(position - offset)) / 2e-5 for offset in offsets]
        jacobian = root[:, None] * np.stack(slopes, axis=1)
        normal = jacobian.T @ jacobian
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -jacobian.T @ (root * residuals))
        next_residuals = errors(position + step)
        if _loss(next_residuals) < _loss(residuals):
            position, residuals, damping = position + step, next_residuals, damping / 10
        else:
            damping *= 10
        if np.abs(step).max() < 1e-7:
            break
    return position


def _loss(residuals: np.ndarray) -> float:
    return float((np.sqrt(1 + (residuals / _SOFT) ** 2) - 1).sum())


class Shipped(NamedTuple):
    """carbon/energy and carbon/concurrency, or copies of them with other coefficients."""

    energy: ModuleType
    concurrency: ModuleType


def shipped_with(values: Mapping[str, float]) -> Shipped:
    """Copies with these coefficients, at all three bounds where the shipped one has three.

    Raises KeyError for a name that neither module has.
    """
    machine = {name.removeprefix("b200."): value for name, value in values.items() if name.startswith("b200.")}
    hardware = {**energy.HARDWARE, "b200": energy.HARDWARE["b200"]._replace(**machine)}
    copies = Shipped(*(_copy(module) for module in (energy, concurrency)))
    unknown = {name for name in values if not name.startswith("b200.")} - vars(energy).keys() - vars(concurrency).keys()
    if unknown:
        raise KeyError(f"no such coefficient: {', '.join(sorted(unknown))}")
    for module in copies:
        module.__dict__["HARDWARE"] = hardware
        for name in values.keys() & vars(module).keys():
            shipped = getattr(module, name)
            setattr(module, name, (values[name],) * 3 if isinstance(shipped, tuple) else values[name])
    return copies


def _copy(module: ModuleType) -> ModuleType:
    assert module.__spec__ is not None and module.__spec__.loader is not None
    copied = importlib.util.module_from_spec(module.__spec__)
    module.__spec__.loader.exec_module(copied)
    return copied


def shipped_value(name: str) -> float:
    """The shipped coefficient; its mid where it has three bounds."""
    if name.startswith("b200."):
        return getattr(energy.HARDWARE["b200"], name.removeprefix("b200."))
    value = getattr(energy if hasattr(energy, name) else concurrency, name)
    return value[1] if isinstance(value, tuple) else value


def energy_problem(points: Sequence[PublishedFigure]) -> Problem:
    """Joules per request; GPUs and concurrency as measured, the engine's generation by the table."""

    def joules(copies: Shipped, point: PublishedFigure) -> float:
        return _joules(copies, point, replace(profile_of(point, "known"), engine="2025"))[1]

    names = (*STEP, *TOKEN)
    features = _features(points, names, ENERGY_FACTORS, joules)
    b200 = np.array([point.hardware == "b200" for point in points])
    step, older = np.isin(names, [*STEP]), np.array([point.table == "v2" for point in points])
    masks = [np.outer(b200, ~step), np.outer(b200, step), np.outer(older, np.ones(len(names)))]
    starts = {**STEP, **TOKEN, **ENERGY_FACTORS}
    prefill = _PREFILL_PRIOR * np.array([name == "_PREFILL_JOULES" for name in starts])
    prefill_prior = (np.full(len(starts), np.log(_PREFILL_CENTER)), prefill)
    return Problem(
        names=tuple(starts), families=_families_of(points), features=features, masks=np.array(masks, dtype=float),
        measured=np.array([point.joules for point in points]), prior=(_weak(starts), prefill_prior),
    )  # fmt: skip


def latency_problem(points: Sequence[PublishedFigure]) -> Problem:
    """Milliseconds between tokens; GPUs and concurrency as measured."""

    def milliseconds(copies: Shipped, point: PublishedFigure) -> float:
        assert point.concurrent_sequences is not None
        return copies.concurrency.step_milliseconds(profile_of(point, "known"), point.concurrent_sequences)

    names = (*PER_STEP, *SEQUENCE)
    features = _features(points, names, LATENCY_FACTORS, milliseconds)
    masks = [np.outer([point.hardware == "b200" for point in points], np.isin(names, [*SEQUENCE]))]
    starts = {**PER_STEP, **SEQUENCE, **LATENCY_FACTORS}
    return Problem(
        names=tuple(starts), families=_families_of(points), features=features, masks=np.array(masks, dtype=float),
        measured=np.array([point.token_latency_ms_median for point in points]), prior=(_weak(starts),),
    )  # fmt: skip


def _features(
    points: Sequence[PublishedFigure],
    names: Sequence[str],
    factors: Mapping[str, float],
    formula: Callable[[Shipped, PublishedFigure], float],
) -> np.ndarray:
    ones = dict.fromkeys(factors, 1.0)
    columns = []
    for name in names:
        copies = shipped_with({**ones, **dict.fromkeys(names, 0.0), name: 1.0})
        columns.append([formula(copies, point) for point in points])
    return np.array(columns).T


def _weak(starts: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    return np.log([*starts.values()]), np.full(len(starts), WEAK_PRIOR)


def _families_of(points: Sequence[PublishedFigure]) -> np.ndarray:
    return np.array([family_of(point.model) for point in points])


def family_of(model: str) -> str:
    """Name of the family: models on the same base weights."""
    return next((base for part, base in BASES.items() if part in model), model.rpartition("/")[2])


def _joules(copies: Shipped, point: PublishedFigure, profile: EnergyProfile) -> list[float]:
    """Low, mid and high joules of a request at the GPU's boundary."""
    assert point.boundary == "gpu" and point.media == "text"
    return [
        model.accelerator_joules(point.input_tokens, 0, round(point.output_tokens))
        for model in copies.energy.energy_models(profile)
    ]


def left_out(fits: Mapping[str, Shipped], point: PublishedFigure, inputs: str) -> list[float]:
    """log2 of low, mid and high over the published figure, by the fit without the point's family.

    fits: by family left out; "" is the fit on all families
    inputs: facts that the estimate receives besides sizes, precision and hardware
    """
    copies = fits.get(family_of(point.model), fits[""])
    profile = profile_of(point, "unknown" if inputs == _LATENCY else "known")
    if inputs == _ALL:
        profile = replace(profile, engine={"v2": "2024", "v3": "2025"}[point.table])
    if inputs in (_LATENCY, _LATENCY_GPUS):
        sequences = copies.concurrency.infer_concurrency(
            replace(profile, concurrency=None), point.token_latency_ms_median
        )
        profile = replace(profile, concurrency=sequences, concurrency_source="latency")
    return [float(np.log2(joules / point.joules)) for joules in _joules(copies, point, profile)]


_ALL, _KNOWN = "concurrency, GPUs, engine", "concurrency, GPUs"
_LATENCY, _LATENCY_GPUS = "time between tokens", "time between tokens, GPUs"


def _by_table(condition: Callable[[PublishedFigure], bool]) -> Callable[[PublishedFigure], bool]:
    return lambda point: point.table != "published" and condition(point)


_V3, _V2 = SUBSETS["mlenergy_v3_known"][0], SUBSETS["mlenergy_v2_known"][0]
_SERVING = SUBSETS["mlenergy_v3_serving_latency"][0]
# (title, which points, inputs of the estimate besides sizes, precision and hardware)
ROWS: tuple[tuple[str, Callable[[PublishedFigure], bool], str], ...] = (
    ("v3 and v2", _by_table(lambda point: True), _ALL),
    ("v3", _V3, _ALL),
    ("v2", _V2, _ALL),
    ("mixtures", _by_table(lambda point: point.is_mixture), _ALL),
    ("mixtures over 200 B", _by_table(lambda point: point.is_mixture and point.total_b > 200), _ALL),
    ("v3", _V3, _KNOWN),
    ("v2", _V2, _KNOWN),
    ("truth.csv, measured", SUBSETS["measured_known"][0], _KNOWN),
    ("v3", _V3, _LATENCY_GPUS),
    ("v3", _V3, _LATENCY),
    ("v3, serving", _SERVING, _LATENCY_GPUS),
    ("v3, serving", _SERVING, _LATENCY),
    ("truth.csv, measured", SUBSETS["measured_latency"][0], _LATENCY),
)


def main() -> int:
    """Print the coefficients, and the errors on families left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DIR")
    data = parser.parse_args().data
    points = [point for point in load_figures(data / name for name in FILES) if point.media == "text"]
    # Code completion has prompts of unknown length.
    fitted = [point for point in points if point.table != "published" and point.input_tokens > 0]
    scored = fitted + [point for point in points if point.table == "published" and point.kind == "measured"]
    problems = energy_problem(fitted), latency_problem([point for point in fitted if point.table == "v3"])
    fits = [{family: each.fitted(family) for family in ("", *sorted({*each.families}))} for each in problems]
    print(_families(fitted))
    for title, by_family in zip(("Energy", "Time between tokens"), fits, strict=True):
        print(_coefficients(title, by_family))
    print("_PREFILL_JOULES is shipped as its prior's center: prompts of 130 to 250 tokens do not determine it.\n")
    print(_errors(scored, *fits))
    print(_times(problems[1], fits[1]))
    return any(_moved(name, value) for by_family in fits for name, value in by_family[""].items())


def _families(points: Sequence[PublishedFigure]) -> str:
    counts = Counter(family_of(point.model) for point in points)
    shared = sorted({base for base in BASES.values() if base in counts})
    tables = Counter(point.table for point in points)
    return (
        f"{tables['v3']} configurations of v3 and {tables['v2']} of v2 in {len(counts)} families. A family is the"
        f" models on the same base weights\n({', '.join(shared)}, each in all its versions);"
        " every other model is a family of its own.\n"
    )


def _coefficients(title: str, fits: Mapping[str, Mapping[str, float]]) -> str:
    rows = []
    for name, value in fits[""].items():
        others = [fit[name] for family, fit in fits.items() if family]
        shipped = shipped_value(name)
        cells = [f"{number:.4g}" for number in (shipped, value, min(others), max(others))]
        rows.append((name, *cells[:2], f"{value / shipped - 1:+.1%}", *cells[2:]))
    head = ("", "shipped", "fitted", "difference", "min", "max")
    return table(f"{title}: coefficients, and their range over fits that leave one family out", head, rows)


def _moved(name: str, value: float) -> bool:
    return name != "_PREFILL_JOULES" and abs(value / shipped_value(name) - 1) > _TOLERANCE


def _errors(
    points: Sequence[PublishedFigure],
    energies: Mapping[str, Mapping[str, float]],
    latencies: Mapping[str, Mapping[str, float]],
) -> str:
    fits = {}
    for family, values in energies.items():
        kept = {name: value for name, value in values.items() if name != "_PREFILL_JOULES"}
        fits[family] = shipped_with({**kept, **latencies.get(family, latencies[""])})
    rows = []
    for title, fitting, inputs in ROWS:
        logs = [left_out(fits, point, inputs) for point in points if fitting(point)]
        within = sum(low <= 0 <= high for low, _, high in logs) / len(logs)
        rows.append((title, inputs, *spread([mid for _, mid, _ in logs]), f"{within:.0%}"))
    head = ("family left out", "inputs", "n", "median", "p90", "bias", "in band")
    return table("Energy: |log2| of estimate over figure, by coefficients fitted without the family", head, rows)


def _times(problem: Problem, fits: Mapping[str, Mapping[str, float]]) -> str:
    logs = np.zeros(len(problem.measured))
    for family in {*problem.families}:
        ratios = problem.predicted(np.log([*fits[family].values()])) / problem.measured
        logs = np.where(problem.families == family, np.log2(ratios), logs)
    rows = [("v3", *spread(logs.tolist()))]
    return table(
        "Time between tokens: the same, by concurrency", ("family left out", "n", "median", "p90", "bias"), rows
    )


def spread(logs: Sequence[float]) -> tuple[str, str, str, str]:
    """(n, median and 90 % quantile of |log2|, median of log2)."""
    magnitudes = [abs(log) for log in logs]
    return str(len(logs)), f"{median(magnitudes):.3f}", f"{quantile(magnitudes, 0.9):.2f}", f"{median(logs):+.2f}"


if __name__ == "__main__":
    sys.exit(main())
