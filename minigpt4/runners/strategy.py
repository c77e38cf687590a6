"""How processes train together: whole copies of the model (DDP), or the language model in shards (FSDP)."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from minigpt4.common.dist_utils import COLLECTIVE_TIMEOUT, get_world_size, is_distributed
from minigpt4.conversation.conversation import IGNORE_INDEX, Batch, Losses

logger = logging.getLogger(__name__)

STRATEGIES = ("ddp", "fsdp")
BUCKET_NUMEL = 8 * 2**20
"""The gradients of one collective (32 MiB of float32): a large one costs a copy, many small ones cost time."""


class Parallel:
    """A model that trains in one process; `module` is called with a batch."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def no_sync(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of a backward whose gradients stay in this process, to be accumulated."""
        return contextlib.nullcontext()

    def most_calls(self, num_calls: int) -> int:
        """Return how often the module must be called, when the other ranks may call it more often than this one."""
        return num_calls

    def reduce_gradients(self) -> None:
        """Replace every gradient by its mean over the ranks, after the last backward of an update."""


class Replicated(Parallel):
    """A whole copy of the model on every rank; gradients are averaged during the last backward."""

    def __init__(self, model: nn.Module) -> None:
        known = inspect.signature(DistributedDataParallel).parameters
        sync_buffers = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in known)
        options: dict[str, Any] = {sync_buffers: False, "gradient_as_bucket_view": True}
        super().__init__(DistributedDataParallel(model, **options))

    @override
    def no_sync(self) -> contextlib.AbstractContextManager[Any]:
        assert isinstance(self.module, DistributedDataParallel)
        return self.module.no_sync()


class Averaged(Parallel):
    """A whole copy of the model on every rank; gradients are averaged after the last backward, not during it.

    A CUDA graph cannot send gradients to another process while it runs. All ranks take rank 0's values of `whole`.
    """

    def __init__(self, module: nn.Module, whole: Iterable[Tensor]) -> None:
        super().__init__(module)
        self._trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        for tensor in whole:
            dist.broadcast(tensor.detach(), src=0)

    @override
    def reduce_gradients(self) -> None:
        for bucket in _buckets(self._trained):
            for parameter in bucket:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            gradients = [parameter.grad for parameter in bucket if parameter.grad is not None]
            # divided first, as DistributedDataParallel does
            flat = torch.cat([gradient.flatten() for gradient in gradients]).div_(get_world_size())
            dist.all_reduce(flat)
            means = flat.split([gradient.numel() for gradient in gradients])
            for gradient, mean in zip(gradients, means, strict=True):
                gradient.copy_(mean.view_as(gradient))


class Sharded(Averaged):
    """The frozen language model sharded over the ranks; all other tensors are whole on each rank.

    Trained tensors are never sharded, so that checkpoints equal those of one process. The vision encoder is not
    sharded, since only some ranks need it in a step, nor is a weight that two parts share.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        units: Sequence[nn.Module] = model.shardable()
        _check_weights(model, units)
        uses = Counter(parameter for unit in units for parameter in unit.parameters())
        mesh = _mesh(device)
        for unit in units:  # one at a time, so that the device never holds more than one whole unit
            init_from_meta(unit, device)
            kept = {parameter for parameter in unit.parameters() if parameter.requires_grad or uses[parameter] > 1}
            # param_dtype stays unset: it would cast the float32 of trained weights
            fully_shard(unit, mesh=mesh, reshard_after_forward=True, ignored_params=kept)
        init_from_meta(model, device)
        whole = [parameter for parameter in model.parameters() if not isinstance(parameter, DTensor)]
        with torch.no_grad():
            for tensor in (*whole, *model.buffers()):
                tensor.data = tensor.data.to(device)
        fully_shard(model, mesh=mesh, ignored_params=set(whole))  # it has no weights left, but prefetches the units
        super().__init__(LockstepForward(model, first=units[0]), whole)
        self._group: Any = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)  # no device waits for it
        logger.info("%d parts of the language model are spread over %d ranks each", len(units), mesh.size())

    @override
    def most_calls(self, num_calls: int) -> int:
        most = torch.tensor(num_calls)
        dist.all_reduce(most, op=dist.ReduceOp.MAX, group=self._group)
        return int(most)


class LockstepForward(nn.Module):
    """Calls a sharded model. Each of its layers is a collective, so all ranks must call it equally often.

    A batch of no tokens makes the same calls; its loss and gradients are zero.
    """

    def __init__(self, model: nn.Module, *, first: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._is_called = False
        first.register_forward_pre_hook(self._refuse_calls_of_one_rank, prepend=True)

    def forward(self, batch: Batch, **options: Any) -> Losses:
        """Return the model's losses for a batch."""
        self._is_called = True
        try:
            if len(batch.input_ids):
                losses: Losses = self.model(batch, **options)
                return losses
            losses = self.model(_one_target(batch))
            return Losses(losses.loss * 0, losses.target_losses[:0], losses.target_positions[:0])
        finally:
            self._is_called = False

    def _refuse_calls_of_one_rank(self, *_: Any) -> None:
        if not self._is_called:
            raise RuntimeError(
                "the language model is sharded (run.strategy: fsdp) and computes only when all ranks call it "
                "together; to generate or rank, load the checkpoint into a model that is not sharded"
            )


def wrap(model: nn.Module, *, strategy: str, device: torch.device, overlap: bool = True) -> Parallel:
    """Move a model to this process's device and return it ready to train with the other ranks by `run.strategy`.

    Without `overlap` gradients are averaged after backward, not during it. With fsdp the model comes on the CPU, so
    that no device ever holds all of it. With random weights it may come on meta, where they are drawn part by part.
    Optimizers are made after this call, which replaces parameters on meta.

    Raises: ValueError when the strategy is unknown or the model's weights cannot be sharded.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"run.strategy: {' or '.join(STRATEGIES)}, not {strategy}")
    if strategy == "fsdp" and is_distributed():
        return Sharded(model, device)
    if strategy == "fsdp":
        logger.warning("run.strategy is fsdp, but this process is alone: it holds the whole model")
    init_from_meta(model, device)
    model.to(device)
    _call_if_there(model, "join_weights")
    if not is_distributed():
        parallel = Parallel(model)
    else:
        parallel = Replicated(model) if overlap else Averaged(model, model.parameters())
    _call_if_there(model, "quantise_frozen")  # after the ranks have exchanged their weights, in 16 bits
    return parallel


def _call_if_there(model: nn.Module, name: str) -> None:
    method = getattr(model, name, None)
    if method is not None:
        method()


def _check_weights(model: nn.Module, units: Sequence[nn.Module]) -> None:
    if not units:
        raise ValueError(f"run.strategy: {type(model).__name__} has no part that fsdp could shard; use ddp")
    for unit in units:
        for parameter in unit.parameters():
            if not parameter.is_floating_point():
                raise ValueError(
                    "run.strategy: fsdp does not shard 8-bit or 4-bit weights; use ddp, or neither "
                    "model.low_resource nor model.load_in_4bit"
                )


def _mesh(device: torch.device) -> DeviceMesh:
    """Return the ranks that share the shards: those of one machine, which has the fast links.

    Frozen weights have no gradient, so machines exchange nothing about their shards. All ranks share when each machine
    has one rank, or the machines have unequal numbers.
    """
    world_size = get_world_size()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    sizes = torch.tensor([local, -local], device=device)
    dist.all_reduce(sizes, op=dist.ReduceOp.MAX)
    smallest, largest = -int(sizes[1]), int(sizes[0])
    if smallest != largest or local == 1 or world_size % local:
        local = world_size
    mesh = init_device_mesh(device.type, (world_size // local, local), mesh_dim_names=("machine", "shard"))
    return mesh["shard"]


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield the parameters in order, in buckets of about BUCKET_NUMEL numbers."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        if bucket and sum(p.numel() for p in bucket) + parameter.numel() > BUCKET_NUMEL:
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


def _one_target(batch: Batch) -> Batch:
    """Return a text of two tokens, one of them a target, instead of an empty batch."""
    ids = torch.zeros(2, dtype=torch.int64, device=batch.input_ids.device)
    return replace(
        batch,
        input_ids=ids,
        labels=ids.new_tensor([IGNORE_INDEX, 0]),
        position_ids=torch.arange(2, device=ids.device),
        lengths=ids.new_tensor([2]),
    )


def init_from_meta(module: nn.Module, device: torch.device) -> None:
    """Initialise a module's meta tensors on a device; others stay.

    Matrices come from N(0, 0.02^2), norms are one; biases, buffers and LoRA's second factor are zero.
    """
    for path, part in module.named_modules():
        own = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        if not any(value.is_meta for value in own):
            continue
        part.to_empty(device=device, recurse=False)
        for name, parameter in part.named_parameters(recurse=False):
            if "lora_B" in path or "bias" in name:
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
            else:
                nn.init.ones_(parameter)
        for buffer in part.buffers(recurse=False):
            buffer.zero_()
