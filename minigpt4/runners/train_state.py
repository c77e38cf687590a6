"""TrainState: the content of a checkpoint, and the optimizer step that changes it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from minigpt4.common.dist_utils import get_world_size
from minigpt4.tasks.base_task import BaseModel

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class TrainState:
    """A run after `step` steps.

    num_rows: training rows of each dataset; frozen_weights_hash: the identity of the weights that are not trained;
    world_size_log: (first step, number of ranks) of each part of the run; changes: options that differed when a
    checkpoint was resumed; keeps_gradients: gradients are zeroed in place, since a CUDA graph knows their addresses.
    """

    model: BaseModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    config: dict[str, Any]
    num_rows: Mapping[str, int | None]
    frozen_weights_hash: Mapping[str, Any]
    max_grad_norm: float | None = None
    keeps_gradients: bool = False
    step: int = 0
    best_loss: float = float("inf")
    world_size_log: list[tuple[int, int]] = field(default_factory=lambda: [(0, get_world_size())])
    changes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Return the epoch of the last step that was taken, from 0."""
        return max(self.step - 1, 0) // int(self.config["run"]["iters_per_epoch"])

    def num_bytes(self) -> int:
        """Return about the size of a checkpoint: the trained weights and their two moments."""
        return 3 * sum(parameter.numel() * parameter.element_size() for _, parameter in self.model.trainable())

    def advance(self, num_steps: int, *, lr: float, is_finite: bool = True) -> Tensor | None:
        """Update the weights by their gradients, unless these are not finite, and count the steps.

        Return the norm () of the whole gradient before it is clipped, on the device; None without an update.
        """
        norm = self._update(lr) if is_finite else None
        self.optimizer.zero_grad(set_to_none=not self.keeps_gradients)
        self.step += num_steps
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Return the checkpoint; its "step" is the next step of the run."""
        return {
            "model": self.model.trainable_state(),
            "optimizer": self.optimizer.state_dict(),
            "config": self.config,
            "scaler": self.scaler.state_dict() if self.scaler.is_enabled() else None,
            "epoch": self.epoch,
            "step": self.step,
            "history": self.world_size_log,
            "best_loss": self.best_loss,
            "base_model": self.frozen_weights_hash,
            "num_rows": self.num_rows,
            "changes": self.changes,
        }

    def load_state_dict(self, checkpoint: Mapping[str, Any], *, source: str) -> None:
        """Take the weights, the optimizer's moments, the scaler and the counters of a checkpoint.

        Learning rates, weight decay and betas stay those of the config. A checkpoint without a step is one of the
        published trainer, written at the end of its epoch.
        Raises: ValueError naming `source` when the checkpoint does not fit the model.
        """
        self.model.load_trainable_state(checkpoint["model"], source=source)
        self._load_optimizer(checkpoint["optimizer"], source)
        if checkpoint.get("scaler") is not None and self.scaler.is_enabled():
            self.scaler.load_state_dict(checkpoint["scaler"])
        self.step = checkpoint.get("step", (checkpoint["epoch"] + 1) * self.config["run"]["iters_per_epoch"])
        self.best_loss = checkpoint.get("best_loss", self.best_loss)
        self.changes = list(checkpoint.get("changes", ()))
        self._continue_log(checkpoint.get("history"), source)

    def _update(self, lr: float) -> Tensor:
        self.scaler.unscale_(self.optimizer)
        trained: list[Tensor] = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        norm = get_total_norm([weight.grad for weight in trained if weight.grad is not None])
        if self.max_grad_norm is not None:
            clip_grads_with_norm_(trained, self.max_grad_norm, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm

    def _load_optimizer(self, saved: Mapping[str, Any], source: str) -> None:
        own = self.optimizer.state_dict()["param_groups"]
        sizes = [[len(group["params"]) for group in groups] for groups in (saved["param_groups"], own)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"{source}: its optimizer has groups of {sizes[0]} parameters, this model of {sizes[1]}")
        self.optimizer.load_state_dict({"state": saved["state"], "param_groups": own})

    def _continue_log(self, world_size_log: Sequence[tuple[int, int]] | None, source: str) -> None:
        """Take the log of a checkpoint, and add a part if the number of ranks has changed."""
        world_size = get_world_size()
        parts = [(int(first), int(size)) for first, size in world_size_log or [(0, world_size)]]
        if parts[-1][1] != world_size:
            logger.warning(
                "%s was written by %d processes, this run has %d: every dataset continues its pass, but the batches "
                "are not those of an uninterrupted run",
                source,
                parts[-1][1],
                world_size,
            )
            parts = [part for part in parts if part[0] < self.step] + [(self.step, world_size)]
        self.world_size_log = parts
