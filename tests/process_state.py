"""What `minigpt4.train` and `minigpt4.evaluate` could leave behind in a process, and the variables of torchrun."""

import logging
import multiprocessing
import os
import random
import signal
import socket
import threading

import numpy as np
import torch
import torch.distributed as dist

from minigpt4.common.liveness import pulse


def process_state():
    """Return what a training could leave behind in the process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    return {
        "signal handlers": {**handlers, signal.SIGCHLD: signal.getsignal(signal.SIGCHLD)},
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "processes": multiprocessing.active_children(),
        "process group": dist.is_initialized(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),
        "python": random.getstate(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "fills": torch.utils.deterministic.fill_uninitialized_memory,
        "benchmark": torch.backends.cudnn.benchmark,
        "cudnn attention": torch.backends.cuda.cudnn_sdp_enabled(),
        "matmul": (torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32),
        "threads of torch": torch.get_num_threads(),
        "default": (torch.get_default_dtype(), torch.get_default_device()),
        "grad": torch.is_grad_enabled(),
        "environment": {name: os.environ.get(name) for name in ("CUBLAS_WORKSPACE_CONFIG", "PYTORCH_ALLOC_CONF")},
        "log handlers": (logging.getLogger().handlers[:], logging.getLogger().level),
        "pulse": (pulse.step, pulse.doing),
    }


def assert_same(before, after):
    for name, value in before.items():
        assert after[name] == value, name


def set_torchrun(monkeypatch):
    """Set the variables of torchrun for one process alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
