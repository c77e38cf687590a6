"""What other programs call: `train` runs a training in this process and leaves the process as it was."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Iterator

import numpy as np
import torch
from tqdm import TMonitor

from minigpt4.common import liveness
from minigpt4.common.config import Config
from minigpt4.common.dist_utils import init_distributed_mode, leave_distributed_mode, pick_device
from minigpt4.common.liveness import FAILED, pulse
from minigpt4.common.registry import registry
from minigpt4.common.seeds import seed_torch
from minigpt4.runners import RunnerBase
from minigpt4.runners.checkpoints import choose_job
from minigpt4.runners.resuming import refuse_changes
from minigpt4.runners.run_result import RunResult
from minigpt4.tasks import setup_task

__all__ = ["RunResult", "build_runner", "train"]


def train(cfg: Config) -> RunResult:
    """Train as train.py does with a config, and return how the training ended.

    It may be called again and from any thread. Log lines go to `logging`, nothing is printed. Signals stop a run only
    in the main thread. The process group of torchrun is joined and left again, unless the caller has joined it before.
    Handlers of signals, random generators, and the flags of PyTorch are afterwards those of the caller.
    Raises: ValueError when an option or a file of the user is wrong; FloatingPointError when a loss is not finite.
    """
    with _restored():
        joined = init_distributed_mode(cfg.run_cfg)
        try:
            return build_runner(cfg).train()
        except BaseException as error:
            if joined:
                liveness.job.leave(FAILED, f"{type(error).__name__}: {error}"[:300])
            raise
        finally:
            if joined:
                leave_distributed_mode()


def build_runner(cfg: Config) -> RunnerBase:
    """Return the runner of a config: its datasets, model and optimizer, resumed where `run.resume_ckpt_path` says so.

    Raises: ValueError when an option or a file of the user is wrong.
    """
    seed_torch("init", cfg.run_cfg.seed)  # the same new LoRA weights on every rank
    device = pick_device(cfg.run_cfg)
    task = setup_task(cfg)
    pulse.doing = "looking at the data"
    datasets = task.build_datasets(cfg)
    job_id = choose_job(cfg.run_cfg)
    refuse_changes(cfg, datasets, job_id)  # before the model's weights are read
    pulse.doing = "loading the model"
    model = task.build_model(cfg, device)
    runner_class: type[RunnerBase] = registry.get_runner_class(cfg.run_cfg.runner)
    return runner_class(cfg=cfg, task=task, model=model, datasets=datasets, job_id=job_id)


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    """Put back, at the end, what a training changes in the process."""
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
