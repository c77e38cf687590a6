"""Learning-rate schedules: pure functions of the global step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from minigpt4.common.registry import registry
from minigpt4.common.schema import RunConfig


@dataclass(frozen=True, kw_only=True)
class WarmupSchedule:
    """What both schedules share: a linear rise from `warmup_lr` to `init_lr` over `warmup_steps` global steps.

    A step is one iteration, with accumulation one micro-batch. `warmup_lr` None or negative means `init_lr`.
    """

    init_lr: float
    min_lr: float
    max_epoch: int
    iters_per_epoch: int
    warmup_lr: float | None = None
    warmup_steps: int = 0
    decay_rate: float | None = None

    def __call__(self, step: int) -> float:
        """Return the learning rate of the update that ends iteration `step` (from 0, counted over all epochs)."""
        if step < self.warmup_steps:
            start = self.init_lr if self.warmup_lr is None or self.warmup_lr < 0 else self.warmup_lr
            return min(self.init_lr, start + (self.init_lr - start) * step / max(self.warmup_steps, 1))
        return self.after_warmup(step)

    def after_warmup(self, step: int) -> float:
        """Return the learning rate of a step behind the warm-up."""
        raise NotImplementedError


def build_schedule(run_cfg: RunConfig) -> WarmupSchedule:
    """Return the schedule that `run.lr_sched` names, with the run's numbers. Raises: ValueError for an unknown name."""
    schedule: WarmupSchedule = registry.get_lr_scheduler_class(run_cfg.lr_sched)(
        init_lr=run_cfg.init_lr,
        min_lr=run_cfg.min_lr,
        max_epoch=run_cfg.max_epoch,
        iters_per_epoch=run_cfg.iters_per_epoch,
        warmup_lr=run_cfg.warmup_lr,
        warmup_steps=run_cfg.warmup_steps,
        decay_rate=run_cfg.lr_decay_rate,
    )
    return schedule


@registry.register_lr_scheduler("linear_warmup_cosine_lr")
class LinearWarmupCosineLR(WarmupSchedule):
    """Half a cosine from `init_lr` to `min_lr` over max_epoch * iters_per_epoch steps, counted from step 0."""

    def after_warmup(self, step: int) -> float:
        """Return min + (init - min) / 2 (1 + cos(pi step / total))."""
        progress = step / (self.max_epoch * self.iters_per_epoch)
        return self.min_lr + (self.init_lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


@registry.register_lr_scheduler("linear_warmup_step_lr")
class LinearWarmupStepLR(WarmupSchedule):
    """init_lr * decay_rate ** epoch, at least `min_lr`; no decay when `decay_rate` is unset."""

    def after_warmup(self, step: int) -> float:
        """Return max(min, init decay^epoch)."""
        decay = 1.0 if self.decay_rate is None else self.decay_rate
        return max(self.min_lr, self.init_lr * decay ** (step // self.iters_per_epoch))
