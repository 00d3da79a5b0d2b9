"""Parsing of metrics pages of serving engines and of the DCGM exporter."""

import pytest

from gateway.feeds.serving_metrics import gpu_joules, running_requests

VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 8.0
vllm:num_requests_running{engine="1",model_name="m"} 12.0
vllm:num_requests_running{engine="2",model_name="m"} 0.0
vllm:num_requests_waiting{engine="0",model_name="m"} 99.0
"""
SGLANG = """sglang:num_running_reqs{engine_type="unified",model_name="m",tp_rank="0"} 24.0
sglang:num_running_reqs{engine_type="unified",model_name="m",tp_rank="1"} 24.0
sglang:num_running_reqs{engine_type="unified",model_name="m",tp_rank="0",priority="1"} 5.0
"""
DCGM = """# HELP DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION Total energy consumption since boot (in mJ).
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a"} 67.351000
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="n"} 319159391
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="1",UUID="GPU-b", pod="x{y}\\"z"} 1000 1700000000000
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="2",UUID="GPU-c",GPU_I_ID="1"} 5000
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="2",UUID="GPU-c",GPU_I_ID="2"} 5000
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="3",UUID="GPU-d"} 9223372036854775794
"""


@pytest.mark.parametrize(
    "page, expected",
    [(VLLM, 10.0), (SGLANG, 24.0), ("vllm:num_requests_running 3\n", 3.0), ("sglang_num_running_reqs 0\n", 0.0),
     ("", None), ("vllm:num_requests_running NaN\n", None), ("vllm:num_requests_running_total 4\n", None), ("<html>", None)],
    ids=["idle engines do not count", "ranks repeat each other", "no labels", "idle", "empty page", "NaN",
         "another metric", "not metrics"],
)  # fmt: skip
def test_running_requests(page, expected):
    assert running_requests(page) == expected


def test_joules_by_gpu():
    assert gpu_joules(DCGM, ()) == {"GPU-a": 319159.391, "GPU-b": 1.0, "GPU-c": 5.0}
    assert gpu_joules(DCGM, ("1", "GPU-c")) == {"GPU-b": 1.0, "GPU-c": 5.0}
    assert gpu_joules("", ()) == {}


@pytest.mark.parametrize("junk", ["a" * 4000, " " * 4000, 'a="' * 1300, "\\" * 4000, "a" * 2_000_000])
def test_a_hostile_page_is_parsed_in_linear_time(junk):
    """Such lines once caused hours of regex backtracking."""
    page = "\n".join([f"vllm:num_requests_running{{{junk}}} 1"] * 50)
    assert running_requests(page) in (1.0, None)


def test_an_implausible_count_is_ignored():
    assert running_requests("vllm:num_requests_running 1e300\n") is None
