"""Learning-rate schedules: pure functions of the global step and the options of `run`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from minigpt4.common.registry import registry


def build_schedule(run_cfg: Any) -> Callable[[int], float]:
    """Return the learning rate as a function of the step, by `run.lr_sched`. Raises: ValueError for an unknown name.

    A step is one iteration, counted from 0 over all epochs; with accumulation it is one micro-batch.
    """
    return partial(learning_rate, run_cfg, registry.get_lr_scheduler_class(run_cfg.lr_sched))


def learning_rate(run_cfg: Any, after_warmup: Callable[[Any, int], float], step: int) -> float:
    """Return the learning rate of the update that ends iteration `step`.

    It rises from `warmup_lr` to `init_lr` over `warmup_steps` steps; `warmup_lr` null or negative means `init_lr`.
    """
    init, start = run_cfg.init_lr, run_cfg.warmup_lr
    if step >= run_cfg.warmup_steps:
        return after_warmup(run_cfg, step)
    start = init if start is None or start < 0 else start
    return float(min(init, start + (init - start) * step / max(run_cfg.warmup_steps, 1)))


@registry.register_lr_scheduler("linear_warmup_cosine_lr")
def cosine(run_cfg: Any, step: int) -> float:
    """Return half a cosine from `init_lr` to `min_lr` over all steps, counted from step 0."""
    progress = step / (run_cfg.max_epoch * run_cfg.iters_per_epoch)
    return float(run_cfg.min_lr + (run_cfg.init_lr - run_cfg.min_lr) * 0.5 * (1 + math.cos(math.pi * progress)))


@registry.register_lr_scheduler("linear_warmup_step_lr")
def step_decay(run_cfg: Any, step: int) -> float:
    """Return init_lr * lr_decay_rate ** epoch, at least `min_lr`; without `lr_decay_rate` it does not decay."""
    decay = 1.0 if run_cfg.lr_decay_rate is None else run_cfg.lr_decay_rate
    return float(max(run_cfg.min_lr, run_cfg.init_lr * decay ** (step // run_cfg.iters_per_epoch)))
