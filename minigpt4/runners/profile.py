"""Profiles some updates (`run.profile`) and writes a trace for Perfetto or Chrome."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity

logger = logging.getLogger(__name__)
T = TypeVar("T")

WARM_UP = 3
"""Updates before the profiled ones, in which kernels are loaded and memory is allocated."""
TRACE = "profile.json"


def profiled(updates: Iterable[T], num_updates: int, path: Path) -> Generator[T]:
    """Yield all updates, and write the trace of `num_updates` of them, after WARM_UP others, to `path`.

    A run with fewer updates writes a shorter trace; one that ends within the warm-up writes none.
    """
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    profiler = torch.profiler.profile(activities=activities)
    is_running = False
    try:
        for number, update in enumerate(updates):
            if number == WARM_UP:
                profiler.start()
                is_running = True
            yield update
            if is_running and number + 1 == WARM_UP + num_updates:
                _write(profiler, path)
                is_running = False
    finally:
        if is_running:
            _write(profiler, path)


def _write(profiler: torch.profiler.profile, path: Path) -> None:
    profiler.stop()
    path.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(path))
    logger.info("wrote the profile %s; https://ui.perfetto.dev shows it", path)
