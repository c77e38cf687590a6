"""How processes share a training: alone, with whole copies of the model (DDP), or with the language model in shards."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from minigpt4.common.dist_utils import COLLECTIVE_TIMEOUT, get_world_size, is_distributed
from minigpt4.common.meta_weights import init_from_meta
from minigpt4.conversation.conversation import IGNORE_INDEX, Batch, Losses

logger = logging.getLogger(__name__)
STRATEGIES = ("ddp", "fsdp")
BUCKET_NUMEL = 8 * 2**20
"""The numbers in one piece of gradients (32 MiB of float32): each costs a copy, many small ones cost time."""


class Parallel:
    """A model that trains in one process; `module` is what is called with a batch."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def no_sync(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of a backward whose gradients stay in this process, to be accumulated."""
        return contextlib.nullcontext()

    def most_calls(self, num_calls: int) -> int:
        """Return how often the module must be called, where the other ranks may call it more often than this one."""
        return num_calls

    def reduce_gradients(self) -> None:
        """Make every gradient its mean over the ranks, after the last backward of an update."""


class Replicated(Parallel):
    """A whole copy of the model on every rank; gradients are averaged during the last backward."""

    def __init__(self, model: nn.Module) -> None:
        known = inspect.signature(DistributedDataParallel).parameters
        sync_buffers = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in known)
        options: dict[str, Any] = {sync_buffers: False, "gradient_as_bucket_view": True}
        super().__init__(DistributedDataParallel(model, **options))

    def no_sync(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of a backward whose gradients stay in this process, to be accumulated."""
        assert isinstance(self.module, DistributedDataParallel)
        return self.module.no_sync()


class Averaged(Parallel):
    """A whole copy of the model on every rank; gradients are averaged after the last backward, not during it.

    A step from a CUDA graph cannot tell another process of its gradients while it runs.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in model.parameters():
            dist.broadcast(parameter.detach(), src=0)

    def reduce_gradients(self) -> None:
        """Make every gradient its mean over the ranks."""
        average_gradients(self._trained)


class Sharded(Parallel):
    """The frozen language model spread over the ranks; all else, and so every trained tensor, whole on each.

    A trained tensor is never sharded, so that checkpoints are those of one process, nor is the vision encoder, which
    only some ranks need in a step; nor a weight that two parts share.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        units: Sequence[nn.Module] = model.shardable()
        _check_weights(model, units)
        uses = Counter(parameter for unit in units for parameter in unit.parameters())
        mesh = _mesh(device)
        for unit in units:  # one at a time, so that the device never holds more than one of them whole
            init_from_meta(unit, device)
            kept = {parameter for parameter in unit.parameters() if parameter.requires_grad or uses[parameter] > 1}
            # param_dtype stays unset: it would cast the float32 of what is trained
            fully_shard(unit, mesh=mesh, reshard_after_forward=True, ignored_params=kept)
        init_from_meta(model, device)
        whole = [parameter for parameter in model.parameters() if not isinstance(parameter, DTensor)]
        _move([*whole, *model.buffers()], device)
        fully_shard(model, mesh=mesh, ignored_params=set(whole))  # nothing is left to it but to let units fetch ahead
        for parameter in whole:
            dist.broadcast(parameter.detach(), src=0)
        super().__init__(LockstepForward(model, first=units[0]))
        self._group: Any = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)  # so that no device is waited for
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        logger.info("%d parts of the language model are spread over %d ranks each", len(units), mesh.size())

    def most_calls(self, num_calls: int) -> int:
        """Return how often the module must be called, where the other ranks may call it more often than this one."""
        most = torch.tensor(num_calls)
        dist.all_reduce(most, op=dist.ReduceOp.MAX, group=self._group)
        return int(most)

    def reduce_gradients(self) -> None:
        """Make every gradient its mean over the ranks, after the last backward of an update."""
        average_gradients(self._trained)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Make every gradient its mean over the ranks, in pieces of about BUCKET_NUMEL numbers."""
    for bucket in _buckets(parameters):
        gradients = [_gradient(parameter) for parameter in bucket]
        # divided first, as DistributedDataParallel does
        flat = torch.cat([gradient.flatten() for gradient in gradients]).div_(get_world_size())
        dist.all_reduce(flat)
        means = flat.split([gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))


class LockstepForward(nn.Module):
    """Calls a sharded model, whose every layer is a collective: all ranks call it equally often, or all wait.

    A batch of no tokens makes the calls of any other batch; its loss and gradients are zero.
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
                "the language model is sharded (run.strategy: fsdp) and computes only where all ranks call it "
                "together; to generate or rank, load the checkpoint into a model that is not"
            )


def wrap(model: nn.Module, *, strategy: str, device: torch.device, overlap: bool = True) -> Parallel:
    """Move a model to this process's device and return it ready to train with the other ranks by `run.strategy`.

    Without `overlap` gradients are averaged after backward, not during it.

    The model comes on any device; with fsdp on the CPU, so that no device ever holds all of it, or with random weights
    on meta, where they are drawn part by part. Optimizers are made after this: parameters on meta are replaced.

    Raises: ValueError when the strategy is unknown or the model's weights cannot be sharded.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"run.strategy: {' or '.join(STRATEGIES)}, not {strategy}")
    if strategy == "fsdp" and is_distributed():
        return Sharded(model, device)
    if strategy == "fsdp":
        logger.warning("run.strategy is fsdp, but a process alone has no other to share the model with: it keeps it")
    init_from_meta(model, device)
    model.to(device)
    join_weights = getattr(model, "join_weights", None)
    if join_weights is not None:
        join_weights()
    parallel = _whole(model, overlap=overlap)
    quantise_frozen = getattr(model, "quantise_frozen", None)
    if quantise_frozen is not None:  # after ranks have told each other their weights, which they do in 16 bits
        quantise_frozen()
    return parallel


def _whole(model: nn.Module, *, overlap: bool) -> Parallel:
    """Return a model that this process has a whole copy of, ready to train with the other ranks, if there are any."""
    if not is_distributed():
        return Parallel(model)
    return Replicated(model) if overlap else Averaged(model)


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
    """Return the ranks that share the shards: those of one machine, whose links are the fast ones.

    Frozen weights have no gradient, so machines need not hear of each other's shards. All ranks share where each has a
    machine of its own, or the machines have unequal numbers.
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


@torch.no_grad()
def _move(tensors: Sequence[Tensor], device: torch.device) -> None:
    for tensor in tensors:
        tensor.data = tensor.data.to(device)


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield the parameters in order, in groups of about BUCKET_NUMEL numbers."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        if bucket and sum(p.numel() for p in bucket) + parameter.numel() > BUCKET_NUMEL:
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


def _one_target(batch: Batch) -> Batch:
    """Return a text of two tokens, one of them a target, in the place of a batch of none."""
    ids = torch.zeros(2, dtype=torch.int64, device=batch.input_ids.device)
    return replace(
        batch,
        input_ids=ids,
        labels=ids.new_tensor([IGNORE_INDEX, 0]),
        position_ids=torch.arange(2, device=ids.device),
        lengths=ids.new_tensor([2]),
    )
