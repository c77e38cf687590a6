"""What a training or an evaluation changes in its process, and puts back."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from tqdm import TMonitor

from minigpt4.common import liveness
from minigpt4.common.dist_utils import init_distributed_mode, leave_distributed_mode
from minigpt4.common.liveness import FAILED, pulse


@contextlib.contextmanager
def joined_group(run_cfg: Any) -> Iterator[None]:
    """Hold the process group of torchrun, unless the caller has joined it, and leave it again.

    Other ranks hear the reason when this one fails.
    """
    joined = init_distributed_mode(run_cfg)
    try:
        yield
    except BaseException as error:
        if joined:
            liveness.job.leave(FAILED, f"{type(error).__name__}: {error}"[:300])
        raise
    finally:
        if joined:
            leave_distributed_mode()


@contextlib.contextmanager
def process_restored() -> Iterator[None]:
    """Put back, at the end, what a training or an evaluation changes in the process."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_restored_generators())
        stack.enter_context(_restored_flags())
        stack.enter_context(_restored_signals())
        stack.enter_context(_no_new_monitors())
        yield


@contextlib.contextmanager
def _restored_generators() -> Iterator[None]:
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(gpus):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextlib.contextmanager
def _restored_flags() -> Iterator[None]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    benchmark, cudnn_attends = torch.backends.cudnn.benchmark, torch.backends.cuda.cudnn_sdp_enabled()
    workspace, at = os.environ.get("CUBLAS_WORKSPACE_CONFIG"), (pulse.step, pulse.doing)
    gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = benchmark
        torch.backends.cuda.enable_cudnn_sdp(cudnn_attends)
        pulse.step, pulse.doing = at
        if workspace is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
        if gpu is not None:
            torch.cuda.set_device(gpu)


@contextlib.contextmanager
def _restored_signals() -> Iterator[None]:
    """Put back the handler of SIGCHLD, which PyTorch sets in the main thread for its data workers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)


@contextlib.contextmanager
def _no_new_monitors() -> Iterator[None]:
    """End the threads that progress bars of libraries start and keep."""
    before = set(threading.enumerate())
    try:
        yield
    finally:
        for thread in set(threading.enumerate()) - before:
            if isinstance(thread, TMonitor):
                thread.exit()
