"""What a device can do at most, and what one training step gives it to do, kernel by kernel."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from gpu_runner import rounded, synchronize
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

NUM_SHOWN = 30
WIDTHS = {"real": (8192, 2**31), "small": (512, 2**24), "tiny": (64, 2**16)}
"""Of the square matrices that are multiplied, and the bytes that are copied."""


def ceiling(device: torch.device, size: str) -> dict[str, Any]:
    """Return the TFLOP/s of a large bfloat16 product, the GB/s of a copy on the device (read and written), launches."""
    width, num_bytes = WIDTHS[size]
    a, b = (torch.randn(width, width, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    into = torch.empty_like(source)
    small = torch.zeros(8, device=device)
    product = _seconds_each(lambda: torch.mm(a, b), device, num=20)
    copy = _seconds_each(lambda: into.copy_(source), device, num=20)
    launch = _seconds_each(lambda: small.add_(1), device, num=2000)
    return {
        "bf16_tflops": rounded(2 * width**3 / product / 1e12),
        "copy_gb_per_s": rounded(2 * num_bytes / copy / 1e9),
        "launch_us": rounded(1e6 * launch),
    }


def _seconds_each(call: Callable[[], Any], device: torch.device, *, num: int) -> float:
    for _ in range(max(num // 5, 3)):
        call()
    synchronize(device)
    began = time.perf_counter()
    for _ in range(num):
        call()
    synchronize(device)
    return (time.perf_counter() - began) / num


def profiled(trainings: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Return one step's kernels by device time, the device's busy time, and the host's operators by their own time."""
    device = trainings.device
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * (device.type == "cuda")]
    profiler = profile(activities=activities)
    _, runner = trainings.train(settings, profiler)
    at = runner.num_warmup
    before, after = runner.marks[at - 1 : at + 1]
    warm = [1000 * (b[0] - a[0]) for a, b in pairwise(runner.marks[:at])]
    events = profiler.events()
    on_device = [
        event
        for event in events
        if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    ]
    spans = sorted((event.time_range.start, event.time_range.end) for event in on_device)
    launches = sum("Launch" in event.name for event in events if event.device_type == DeviceType.CPU)
    return {
        "samples": after[1] - before[1],
        "tokens": after[2] - before[2],
        "profiled_step_ms": rounded(1000 * (after[0] - before[0])),
        "median_step_ms_before": rounded(statistics.median(warm)) if warm else None,
        "device_busy_ms": rounded(_covered(spans) / 1000),
        "device_span_ms": rounded((spans[-1][1] - spans[0][0]) / 1000) if spans else None,
        "num_kernels": len(on_device),
        "num_launch_calls": launches,
        "kernels": _table(on_device, lambda event: event.time_range.elapsed_us()),
        "host_operators": _table(
            [event for event in events if event.device_type == DeviceType.CPU],
            lambda event: event.self_cpu_time_total,
        ),
    }


def _covered(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of sorted intervals."""
    covered, end = 0.0, float("-inf")
    for start, stop in spans:
        covered += max(stop - max(start, end), 0.0)
        end = max(end, stop)
    return covered


def _table(events: list[Any], microseconds: Callable[[Any], float]) -> list[dict[str, Any]]:
    """Return the names that take the most time, with their counts and milliseconds."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for event in events:
        entry = sums[event.name[:160]]
        entry[0] += 1
        entry[1] += microseconds(event) / 1000
    largest = sorted(sums.items(), key=lambda item: -item[1][1])[:NUM_SHOWN]
    return [{"name": name, "count": int(count), "ms": rounded(ms)} for name, (count, ms) in largest]
