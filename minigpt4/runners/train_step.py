"""The gradient of one optimizer update: forward, loss weights, backward, check of the losses."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from minigpt4.common.checkpoint import write_checkpoint
from minigpt4.common.dist_utils import all_reduce_sum, get_rank, get_world_size
from minigpt4.common.schema import RunConfig
from minigpt4.common.seeds import seed_torch
from minigpt4.conversation.conversation import Batch, Losses
from minigpt4.runners.flops import model_flops
from minigpt4.runners.graphs import GraphedSteps
from minigpt4.runners.loader import PackedBatch
from minigpt4.runners.strategy import Parallel
from minigpt4.runners.update import AccumulationWindow, Update
from minigpt4.tasks.base_task import BaseModel, BaseTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Pending:
    step: int
    loss: Tensor  # being copied to the CPU
    arrived: torch.cuda.Event | None
    ids: tuple[str, ...]
    batch: Batch


class LossGuard:
    """Checks every loss one step late, so that the loop never waits for a device that has work.

    Raises: FloatingPointError with the step, the samples and the file of the batch, before the next checkpoint.
    """

    def __init__(self, folder: Path, *, max_skipped_steps: int) -> None:
        self.folder, self.max_skipped_steps = folder, max_skipped_steps
        self.num_skipped = 0
        self._pending: _Pending | None = None

    def watch(self, step: int, loss: Tensor, packed: PackedBatch) -> None:
        """Take the loss of a step, and check that of the step before."""
        self.check()
        arrived = None
        if loss.device.type == "cuda":
            stream = torch.cuda.current_stream(loss.device)
            loss = loss.detach().to("cpu", non_blocking=True)
            arrived = stream.record_event()
        # only the worker's batch is held, so that no memory of the device is kept
        self._pending = _Pending(step, loss.detach(), arrived, packed.ids, packed.host_batch or packed.batch)

    def check(self) -> None:
        """Check the last loss. Raises: FloatingPointError when it is not finite."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if pending.arrived is not None:
            pending.arrived.synchronize()
        if not math.isfinite(float(pending.loss)):
            raise FloatingPointError(self._keep(pending.step, float(pending.loss), pending.ids, pending.batch))

    def skips(self, step: int, losses: Sequence[Tensor], packed_batches: Sequence[PackedBatch]) -> bool:
        """Return whether to leave out the update of these losses, the same on all ranks; waits for the device.

        It is for `run.max_skipped_steps` > 0. Raises: FloatingPointError when that many were left out already.
        """
        values = torch.stack([loss.detach() for loss in losses])
        if all_reduce_sum((~values.isfinite()).sum().float().reshape(1)).item() == 0:
            return False
        pairs = zip(values.tolist(), packed_batches, strict=True)
        bad = [(value, p.ids, p.host_batch or p.batch) for value, p in pairs if not math.isfinite(value)]
        message = self._keep(step, *bad[0]) if bad else "another rank's loss is not finite"
        self.num_skipped += 1
        if self.num_skipped > self.max_skipped_steps:
            raise FloatingPointError(f"{message}; run.max_skipped_steps allows {self.max_skipped_steps}")
        logger.warning("step %d is left out: %s", step, message)
        return True

    def _keep(self, step: int, loss: float, ids: Sequence[str], batch: Batch) -> str:
        """Save the batch beside the checkpoints and return the message."""
        path = self.folder / f"not_finite_step{step}_rank{get_rank()}.pt"
        tensors = {f.name: getattr(batch, f.name) for f in fields(batch)}
        write_checkpoint(path, {"batch": tensors, "ids": list(ids), "step": step})
        return f"loss is {loss} at step {step}; batch: {', '.join(ids)} (kept in {path})"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """The losses and counts of an update, after its gradient.

    losses (steps, world_size) float32 on the device: this rank's part of every micro-batch's mean loss; is_finite:
    whether the weights may be updated; compute_seconds: this rank's computing time, without its wait for other ranks;
    the counts are those of this rank.
    """

    losses: Tensor
    is_finite: bool
    compute_seconds: float
    num_samples: int
    num_tokens: int
    flops: float


class TrainStep:
    """Adds the gradient of an update to the parameters, averaged over the ranks; it changes no weight.

    The gradient is the mean over the micro-batches of all ranks, each with the mean loss of its targets. That holds
    for any rank that computes a sample, and for any samples that are packed together. A batch that is one micro-batch
    keeps its weights. When batches mix micro-batches, the weight of a target is one over the number of targets of its
    micro-batch on all ranks.
    """

    def __init__(
        self,
        run_cfg: RunConfig,
        *,
        task: BaseTask,
        model: BaseModel,
        parallel: Parallel,
        scaler: torch.amp.GradScaler,
        guard: LossGuard,
        device: torch.device,
        amp_dtype: torch.dtype | None,
        graphed: bool = False,
    ) -> None:
        self.task, self.parallel, self.scaler, self.guard, self.device = task, parallel, scaler, guard, device
        self._is_balanced = run_cfg.balance_ranks and get_world_size() > 1
        self._one = torch.ones((), device=device)
        self._seed, self._may_skip, self._amp_dtype = run_cfg.seed, run_cfg.max_skipped_steps > 0, amp_dtype
        self._flops = model_flops(model) or (lambda batch: 0.0)
        trained: list[Tensor] = [parameter for _, parameter in model.trainable()]
        self.graphs = GraphedSteps(self._forward_backward, trained, device) if graphed else None

    def __call__(self, update: Update) -> StepResult:
        """Add the gradient of an update, without waiting for the device unless `run.max_skipped_steps` is set."""
        losses: list[Tensor] = []
        is_finite, seconds, num_samples, num_tokens, flops = True, 0.0, 0, 0, 0.0
        for step, packed_batches in update:
            began = time.perf_counter()
            seed_torch("step", self._seed, get_rank(), step)  # dropout masks
            part, ended, values = self._add_gradient(update.window, step, packed_batches)
            seconds += ended - began
            losses.append(part)
            if self._may_skip:
                is_finite = not self.guard.skips(step, values, packed_batches) and is_finite
            num_samples += sum(len(packed.ids) for packed in packed_batches)
            num_tokens += sum(len(packed.batch.input_ids) for packed in packed_batches)
            flops += sum(self._flops(packed.batch) for packed in packed_batches)
        if is_finite:
            self.parallel.reduce_gradients()
        return StepResult(
            losses=losses[0] if len(losses) == 1 else torch.cat(losses),
            is_finite=is_finite,
            compute_seconds=seconds,
            num_samples=num_samples,
            num_tokens=num_tokens,
            flops=flops,
        )

    def autocast(self) -> torch.autocast:
        """Return the context of the run's 16-bit computation; it does nothing in float32."""
        return torch.autocast(self.device.type, dtype=self._amp_dtype, enabled=self._amp_dtype is not None)

    def forward(self, batch: Batch) -> Losses:
        """Return the losses of a batch on the device."""
        with self.autocast():
            return self.task.train_step(self.parallel.module, batch)

    def _add_gradient(
        self, window: AccumulationWindow, step: int, packed_batches: Sequence[PackedBatch]
    ) -> tuple[Tensor, float, list[Tensor]]:
        """Run forward and backward of one item of the loader.

        Return the losses (steps, world_size), the time before the last wait for other ranks, and each batch's loss.
        """
        num_micro_batches = window.steps_at_once * get_world_size()
        is_mixed = window.is_packed or self._is_balanced
        weights = target_weights(packed_batches, num_micro_batches, device=self.device) if is_mixed else None
        num_calls = self.parallel.most_calls(len(packed_batches)) if window.is_packed else len(packed_batches)
        missing = [PackedBatch.empty(self.device) for _ in range(num_calls - len(packed_batches))]
        updates = step + window.steps_at_once > window.last
        losses = torch.zeros(num_micro_batches, device=self.device)
        values: list[Tensor] = []
        for packed in [*packed_batches, *missing]:
            batch = packed.batch
            if weights is not None:
                batch = batch.with_fields(weights=weights[packed.micro_batch_ids], divisor=self._one)
            is_last = updates and len(values) + 1 == num_calls
            with contextlib.nullcontext() if is_last else self.parallel.no_sync():
                graphs = self.graphs if len(batch.input_ids) else None
                num_accumulated = window.num_accumulated
                output = graphs(batch, num_accumulated=num_accumulated) if graphs else self.forward(batch)
                if weights is None:
                    losses[get_rank()] = output.loss.detach()
                else:
                    losses.index_add_(0, packed.micro_batch_ids, output.target_losses * batch.weights)
                values.append(output.loss.detach())
                if not self._may_skip:
                    self.guard.watch(step, values[-1], packed)
                ended = time.perf_counter()
                if graphs is None:
                    self._backward(output, num_accumulated)
        return losses.view(window.steps_at_once, get_world_size()), ended, values[: len(packed_batches)]

    def _backward(self, losses: Losses, num_accumulated: int) -> None:
        self.scaler.scale(losses.loss / num_accumulated).backward()

    def _forward_backward(self, batch: Batch, num_accumulated: int) -> Losses:
        """Add the gradient of one batch, inside a CUDA graph."""
        losses = self.forward(batch)
        self._backward(losses, num_accumulated)
        return losses


def target_weights(packed_batches: Sequence[PackedBatch], num_micro_batches: int, *, device: torch.device) -> Tensor:
    """Return the weight of a target of each micro-batch, (num_micro_batches,) float32, by one small collective."""
    counts = [0] * num_micro_batches
    for packed in packed_batches:
        for micro_batch_id, number in packed.num_targets.items():
            counts[micro_batch_id] += number
    shared = torch.tensor(counts, dtype=torch.float32, pin_memory=device.type == "cuda").to(device, non_blocking=True)
    return all_reduce_sum(shared).reciprocal_()
