"""Trying a kernel before it is used, apart from the step that asks for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def check_apart(check: Callable[[], bool], device: torch.device) -> bool:
    """Return the result of a check of a kernel, run in a thread whose GPU is `device`.

    Autocast and the hooks of a recomputed layer belong to a thread, so they do not reach the check.
    """

    def run() -> bool:
        if device.type == "cuda":
            torch.cuda.set_device(device)  # a new thread begins on GPU 0
        return check()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()
