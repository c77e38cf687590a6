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
    """Join the process group of torchrun, unless the caller has joined it, and leave it again.

    When this rank fails, the other ranks read the reason.
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
    """Put back, at the end, what a training or an evaluation changes in the process.

    That is random generators, flags of PyTorch, the handler of SIGCHLD, and threads of progress bars.
    """
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with contextlib.ExitStack() as stack, torch.random.fork_rng(gpus):
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        _restore_flags(stack)
        if threading.current_thread() is threading.main_thread():  # PyTorch sets a handler for its data workers there
            stack.callback(signal.signal, signal.SIGCHLD, signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL)
        stack.callback(_end_monitors, set(threading.enumerate()))
        yield


def _restore_flags(stack: contextlib.ExitStack) -> None:
    """Have `stack` put back the flags of PyTorch, the current GPU, and what this process reports as its work."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    stack.callback(torch.use_deterministic_algorithms, deterministic, warn_only=warn_only)
    for place, name in (
        (torch.utils.deterministic, "fill_uninitialized_memory"),
        (torch.backends.cudnn, "benchmark"),
        (pulse, "step"),
        (pulse, "doing"),
    ):
        stack.callback(setattr, place, name, getattr(place, name))
    stack.callback(torch.backends.cuda.enable_cudnn_sdp, torch.backends.cuda.cudnn_sdp_enabled())
    if "CUBLAS_WORKSPACE_CONFIG" not in os.environ:
        stack.callback(os.environ.pop, "CUBLAS_WORKSPACE_CONFIG", None)
    if torch.cuda.is_initialized():
        stack.callback(torch.cuda.set_device, torch.cuda.current_device())


def _end_monitors(before: set[threading.Thread]) -> None:
    """End the threads that progress bars of libraries have started since."""
    for thread in set(threading.enumerate()) - before:
        if isinstance(thread, TMonitor):
            thread.exit()
