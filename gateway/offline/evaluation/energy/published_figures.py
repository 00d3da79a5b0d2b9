"""Published energy figures: what was served, by what, and its energy.

Three kinds of file are read: our own table of published points (truth.csv), ML.ENERGY's leaderboard v3, and v2.
"""

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from ....values.base import Value

_JOULES_PER_WH = 3600.0
_PRECISION_BITS = {"bfloat16": 16.0, "bf16": 16.0, "fp16": 16.0, "fp8": 8.0, "mxfp4": 4.25, "fp4": 4.5}
# Prompt tokens of ML.ENERGY's tasks, which it does not publish: approximations of truth.csv. Code completion (fim) has
# long prompts of unknown length; the tokens of images and videos are in the factor for them.
_TASK_PROMPT_TOKENS = {
    "lm-arena-chat": 150, "gpqa": 250, "sourcegraph-fim": 0, "image-chat": 150, "video-chat": 150, "chat": 200,
    "code": 130,
}  # fmt: skip
_TASK_MEDIA = {"image-chat": "image", "video-chat": "video"}
# Active parameters (1e9) of the mixtures in v2's file, which has totals only (Mixtral papers, 2024).
_V2_ACTIVE_PARAMS_B = {"mixtral-8x22b": 39.0, "mixtral-8x7b": 12.9}
# From this size on a hosted model without a published precision counts as FP8, like those that publish theirs.
_FP8_DEFAULT_MIN_PARAMS_B = 200.0


class PublishedFigure(Value, frozen=True, kw_only=True):
    """One published figure.

    table: published, v3 or v2
    kind: measured, derived, modelled or provider_reported
    active_b, total_b: parameters, 1e9
    hardware: as in carbon/energy.HARDWARE; "": undeclared
    gpus, concurrent_sequences: None: undeclared
    token_latency_ms_median: time between tokens; None: undeclared
    joules: per request, at `boundary`
    boundary: gpu, it or facility
    ecologits_log2_ratio: log2 of EcoLogits 0.11's estimate over the figure; None: compute it by its method
    """

    name: str
    table: str
    kind: str
    model: str
    media: str
    task: str
    active_b: float
    total_b: float
    weight_bits: float
    hardware: str
    gpus: int | None
    input_tokens: int
    output_tokens: float
    concurrent_sequences: float | None
    token_latency_ms_median: float | None
    joules: float
    boundary: str
    ecologits_log2_ratio: float | None = None

    @property
    def is_mixture(self) -> bool:
        """Whether the model is a mixture of experts."""
        return self.active_b < self.total_b


def load_figures(paths: Iterable[Path]) -> list[PublishedFigure]:
    """The figures of all files.

    Raises OSError, and ValueError for a file that is none of the three kinds.
    """
    figures: list[PublishedFigure] = []
    for path in paths:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            parse_row = next(
                (parser for column, parser in _ROW_PARSERS.items() if column in (reader.fieldnames or ())), None
            )
            if parse_row is None:
                raise ValueError(f"{path}: neither a table of published points nor one of ML.ENERGY's")
            try:
                figures += [figure for row in reader if (figure := parse_row(row)) is not None]
            except (KeyError, ValueError, TypeError) as error:
                raise ValueError(f"{path}: line {reader.line_num}: {error}") from error
    if not figures:
        raise ValueError("no point to score")
    return figures


def _parse_published_row(row: Mapping[str, str]) -> PublishedFigure | None:
    """A row of truth.csv; None where it is not scored or its sizes are unknown."""
    if row["score"] != "yes" or not row["params_active_b"] or not row["wh_per_request"]:
        return None
    total = _range_mean(row["params_total_b"])
    return PublishedFigure(
        name=row["id"],
        table="published",
        kind=row["kind"],
        model=row["system"],
        media=_TASK_MEDIA.get(row["task"], "text"),
        task=row["task"],
        active_b=min(total, _range_mean(row["params_active_b"])),
        total_b=total,
        weight_bits=_PRECISION_BITS.get(row["precision"])
        or (8.0 if row["kind"] != "measured" and total >= _FP8_DEFAULT_MIN_PARAMS_B else 16.0),
        hardware=_hardware_name(row["hardware"]),
        gpus=int(row["n_accel"]) if row["n_accel"] else None,
        input_tokens=int(float(row["input_tokens"] or 0)),
        output_tokens=float(row["output_tokens"]),
        concurrent_sequences=_optional_float(row["concurrency"]),
        token_latency_ms_median=_optional_float(row["median_itl_ms"]),
        joules=float(row["wh_per_request"]) * _JOULES_PER_WH,
        boundary=row["boundary"],
        ecologits_log2_ratio=_optional_float(row["eco_log2_ratio"]),
    )


def _parse_v3_row(row: Mapping[str, str]) -> PublishedFigure:
    total = float(row["total_params_billions"])
    return PublishedFigure(
        name=f"{row['model_id']} {row['task']} {row['gpu_model']} {row['max_num_seqs']}",
        table="v3",
        kind="measured",
        model=row["model_id"],
        media=_TASK_MEDIA.get(row["task"], "text"),
        task=row["task"],
        active_b=min(total, float(row["activated_params_billions"])),
        total_b=total,
        weight_bits=_PRECISION_BITS[row["weight_precision"]],
        hardware=_hardware_name(row["gpu_model"]),
        gpus=int(row["num_gpus"]),
        input_tokens=_TASK_PROMPT_TOKENS.get(row["task"], 0),
        output_tokens=float(row["avg_output_len"]),
        concurrent_sequences=float(row["avg_batch_size"]),
        token_latency_ms_median=_optional_float(row["median_itl_ms"]),
        joules=float(row["energy_per_token_joules"]) * float(row["avg_output_len"]),
        boundary="gpu",
    )


def _parse_v2_row(row: Mapping[str, str]) -> PublishedFigure:
    total, name = float(row["params_b"]), row["Model"].lower()
    return PublishedFigure(
        name=f"{row['Model']} {row['task']} {row['GPU']} {row['Max BS (reqs)']}",
        table="v2",
        kind="measured",
        model=row["Model"],
        media="text",
        task=row["task"],
        active_b=next((active for part, active in _V2_ACTIVE_PARAMS_B.items() if part in name), total),
        total_b=total,
        weight_bits=16.0,
        hardware=_hardware_name(row["GPU"]),
        gpus=int(row["TP"]) * int(row["PP"]),
        input_tokens=_TASK_PROMPT_TOKENS.get(row["task"], 0),
        output_tokens=float(row["Avg Output Tokens"]),
        concurrent_sequences=float(row["Avg BS (reqs)"]),
        token_latency_ms_median=float(row["Avg TPOT (s)"]) * 1000,
        joules=float(row["Energy/req (J)"]),
        boundary="gpu",
    )


# By a column that only files of this kind have.
_ROW_PARSERS = {
    "wh_per_request": _parse_published_row,
    "activated_params_billions": _parse_v3_row,
    "Max BS (reqs)": _parse_v2_row,
}


def _hardware_name(text: str) -> str:
    """The hardware; mixed fleets count as the middle one of theirs."""
    names = [name for name in ("a100", "h100", "h200", "b200") if name.upper() in text]
    return names[0] if len(names) == 1 else "h200" if "h200" in names else "h100" if "h100" in names else ""


def _range_mean(text: str) -> float:
    """A number, or the geometric mean of a range like 253-671."""
    parts = [float(part) for part in text.split("-")]
    return math.sqrt(parts[0] * parts[-1])


def _optional_float(text: str) -> float | None:
    return float(text) if text else None


def quantile(values: Iterable[float], share: float) -> float:
    """The value below which this share of the values is, interpolated."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    lower = math.floor(position)
    upper = min(lower + 1, len(ordered) - 1)
    return ordered[lower] + (ordered[upper] - ordered[lower]) * (position - lower)
