"""Finds losses that are not finite: reports their step and samples, and saves their batch."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from minigpt4.common.checkpoint import write_checkpoint
from minigpt4.common.dist_utils import all_reduce_sum, get_rank
from minigpt4.conversation.conversation import Batch
from minigpt4.runners.loader import PackedBatch

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
