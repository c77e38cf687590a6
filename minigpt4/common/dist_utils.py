"""Ranks and devices: the process group of torchrun, the device of this process, and collectives."""

from __future__ import annotations

import datetime
import logging
import os
import uuid
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from minigpt4.common import liveness
from minigpt4.common.liveness import WAITING, pulse
from minigpt4.common.schema import RunConfig

logger = logging.getLogger(__name__)
T = TypeVar("T")
PATIENCE = datetime.timedelta(days=7)
"""How long a rank waits for ranks whose work may take days longer."""
COLLECTIVE_TIMEOUT = datetime.timedelta(hours=2)
"""How long a collective waits; a lost rank ends the job sooner, see liveness."""


def is_distributed() -> bool:
    """Return whether a process group is up."""
    return dist.is_available() and dist.is_initialized()


def get_rank() -> int:
    """Return this process's rank, 0 when it is alone."""
    return dist.get_rank() if is_distributed() else 0


def get_world_size() -> int:
    """Return the number of processes, 1 when this one is alone."""
    return dist.get_world_size() if is_distributed() else 1


def is_main_process() -> bool:
    """Return whether this is rank 0."""
    return get_rank() == 0


class PatientBarrier:
    """A barrier where a rank may wait for days; all ranks create it at the same time.

    NCCL ends a job whose ranks wait half an hour for each other, so this barrier uses gloo, on the CPU.
    """

    def __init__(self) -> None:
        self._group: Any = dist.new_group(backend="gloo", timeout=PATIENCE) if is_distributed() else None

    def wait(self) -> None:
        """Wait for all ranks."""
        if self._group is not None:
            with pulse.during(WAITING):
                dist.all_reduce(torch.zeros(1), group=self._group)


def broadcast_object(value: T) -> T:
    """Return rank 0's value on every rank; it must pickle."""
    if not is_distributed():
        return value
    box = [value]
    with pulse.during(WAITING):
        dist.broadcast_object_list(box, src=0)
    return box[0]


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over the ranks (the tensor itself is overwritten); one rank alone sends nothing."""
    if get_world_size() > 1:
        dist.all_reduce(values)
    return values


def pick_device(run_cfg: RunConfig) -> torch.device:
    """Return this process's device: `run.device`, and for cuda the GPU of its local rank, made the current one.

    Raises: ValueError when the machine has no such device.
    """
    device = torch.device(run_cfg.device)
    if device.type == "cpu":
        return device
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("run.device is cuda but this machine has none; --options run.device=cpu")
    if device.type == "cuda":
        index = int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device.index
        num_gpus = torch.cuda.device_count()
        if device.index is not None and index >= num_gpus:
            raise ValueError(f"run.device is {device} but this machine has {num_gpus} GPUs, counted from 0")
        if index >= num_gpus:
            raise ValueError(f"local rank {index} has no GPU: this machine has {num_gpus}; lower --nproc_per_node")
        device = torch.device("cuda", index)
    try:
        return prepare_device(device if device.type == "cuda" else torch.empty(1, device=device).device)
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0].partition(". ")[0]
        raise ValueError(f"run.device is {device}, which does not work here: {reason}") from error


def prepare_device(device: torch.device) -> torch.device:
    """Make a GPU that has a number the current one, and turn cuDNN's attention off; return the device."""
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)  # events and 4-bit weights go to the current GPU
        # cuDNN builds a plan for each new shape, and shapes change with every step and every token
        torch.backends.cuda.enable_cudnn_sdp(False)
    return device


def use_expandable_segments() -> None:
    """Let CUDA's memory grow in place, as sizes change with every step, unless the user set something else.

    PyTorch reads the variable when it first allocates memory on a GPU, so a command calls this first.
    """
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def init_distributed_mode(run_cfg: RunConfig) -> bool:
    """Join torchrun's process group, and return whether this call joined it; without torchrun nothing happens."""
    if not run_cfg.distributed or "RANK" not in os.environ or "WORLD_SIZE" not in os.environ or is_distributed():
        return False
    device = pick_device(run_cfg)
    on_gpu = device.type == "cuda"
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=run_cfg.dist_url,
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=COLLECTIVE_TIMEOUT,
        device_id=device if on_gpu else None,
    )
    timeout, world_size = run_cfg.timeout_seconds, get_world_size()
    if timeout and world_size > 1 and "MASTER_ADDR" in os.environ:
        token = broadcast_object(uuid.uuid4().hex)  # a restarted job uses the same store
        liveness.job.watch(rank=get_rank(), world_size=world_size, token=token, timeout=timeout)
    return True


def leave_distributed_mode() -> None:
    """Leave the process group, after reporting to the other ranks that this one is done."""
    liveness.job.leave()
    if is_distributed():
        dist.destroy_process_group()


def autocast_dtype(run_cfg: RunConfig, device: torch.device) -> torch.dtype | None:
    """Return the 16-bit type to compute in, or None for float32.

    With `run.amp` a GPU computes in 16 bits, by `run.amp_dtype`: `auto` is bfloat16 where the hardware has it, else
    float16.
    """
    if not run_cfg.amp or device.type != "cuda":
        return None
    if run_cfg.amp_dtype != "auto":
        return torch.bfloat16 if run_cfg.amp_dtype == "bfloat16" else torch.float16
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def make_deterministic() -> None:
    """Make CUDA compute in one order, as a CPU does, so that a run is bit-identical; some kernels are slower then."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    # filling would launch a kernel for each new tensor
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
