"""Checks whether a run can hold frozen weights in 8 bits (`model.frozen_dtype: float8`)."""

from __future__ import annotations

from typing import Any

import torch

FLOAT8_CAPABILITY = (8, 9)
"""The first compute capability of CUDA with 8-bit floating point products."""


def check_frozen_dtype(run_cfg: Any, model_cfg: Any, device: torch.device, amp_dtype: torch.dtype | None) -> None:
    """Raise ValueError with every option that makes `model.frozen_dtype: float8` impossible, if there are any."""
    if model_cfg.frozen_dtype != "float8":
        return
    problems = []
    if device.type != "cuda":
        problems.append("run.device is not cuda")
    elif torch.cuda.get_device_capability(device) < FLOAT8_CAPABILITY:
        needed = ".".join(map(str, FLOAT8_CAPABILITY))
        problems.append(f"{torch.cuda.get_device_name(device)} has a compute capability below {needed}")
    if amp_dtype is not torch.bfloat16:
        problems.append("its products are bfloat16, which run.amp and run.amp_dtype do not give here")
    if run_cfg.strategy == "fsdp":
        problems.append("run.strategy is fsdp")
    if run_cfg.compile:
        problems.append(f"run.compile is {list(run_cfg.compile)}")
    if problems:
        raise ValueError(f"model.frozen_dtype: float8 is not possible, as {'; '.join(problems)}")
