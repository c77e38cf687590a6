"""A dry run of benchmarks/on_gpu.py on the null GPU: its cases run on CUDA's path; no figure means anything."""

import json
import subprocess
import sys

from tests.null_gpu import shim

CASES = (
    *("ceiling", "numerics attention", "numerics parts", "golden training bfloat16"),
    *("ours", "ours, no graphs", "host alone", "together", "with recompute", "with float8", "without joint"),
    *("with look_ahead", "evaluation, batches of 10", "decoding, 32 prompts", "decoding, 32 prompts, graphs"),
    *("ours, expandable", "resumed, deterministic", "ours, float16"),
)
"""Left out: what NCCL, cuDNN, CUPTI, inductor or a sensible number would be needed for, and variants of these cases.

The probe of the attention kernel reads zeros and says no, so no step is captured here; test_cuda_path.py does that.
"""


def test_the_cases_of_on_gpu_run_on_the_cuda_path(null_gpu, tmp_path):
    command = [sys.executable, "benchmarks/on_gpu.py", "--out", str(tmp_path), "--size", "tiny", "--device", "cuda"]
    command += ["--budget", "900", "--no-cudnn", "--only", *CASES]
    done = subprocess.run(command, env=null_gpu, cwd=shim.ROOT, capture_output=True, text=True, timeout=1000)
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    failed = {result["case"]: result.get("error") for result in results if result["status"] != "ok"}
    assert not failed, done.stderr
    assert [result["case"] for result in results] == [*CASES]
    assert {result["device"] for result in results} == {"NVIDIA H100 80GB HBM3"}
