"""What a checkpoint holds of a run, and how a run goes on with it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt4.common.checkpoint import NEEDED_TO_RESUME, read_checkpoint
from minigpt4.common.dist_utils import get_world_size
from minigpt4.common.model_match import check_match
from minigpt4.runners.checkpoints import AUTO, read_newest

if TYPE_CHECKING:
    from minigpt4.runners.runner_base import RunnerBase

logger = logging.getLogger(__name__)


def state_of(runner: RunnerBase, epoch: int, step: int) -> dict[str, Any]:
    """Return the checkpoint of a run after `step`; `state["step"]` is the next one to take."""
    return {
        "model": runner.model.trainable_state(),
        "optimizer": runner.optimizer.state_dict(),
        "config": runner.cfg.to_dict(),
        "scaler": runner.scaler.state_dict() if runner.scaler.is_enabled() else None,
        "epoch": epoch,
        "step": step + 1,
        "history": runner.history,
        "best_loss": runner.best_loss,
        "base_model": runner.base_model,
    }


def resume(runner: RunnerBase, path: str) -> None:
    """Bring a runner to where a checkpoint left off; with `auto` to its job's newest, if there is one.

    A checkpoint without a step is one of the published trainer, written at the end of its epoch.
    Raises: ValueError naming the file when it cannot be resumed.
    """
    if path == AUTO:
        newest = read_newest(runner.folder, iters_per_epoch=runner.run.iters_per_epoch)
        if newest is None:
            logger.info(
                "run.resume_ckpt_path is auto and %s has no checkpoint: starting from the beginning", runner.folder
            )
            return
        source, state = str(newest[0]), newest[1]
    else:
        source, state = path, read_checkpoint(path)
    missing = [key for key in NEEDED_TO_RESUME if key not in state]
    if missing:
        raise ValueError(f"run.resume_ckpt_path: {source} cannot be resumed, it has no {', '.join(missing)}")
    allowed = bool(runner.run.get("allow_changes", False))
    found = check_match(state, runner.cfg.model_cfg, source, allowed=allowed)
    runner.model.mismatches = list(dict.fromkeys([*runner.model.mismatches, *found]))
    runner.model.load_trainable_state(state["model"], source=source)
    _load_optimizer(runner, state["optimizer"], source)
    if state.get("scaler") is not None and runner.scaler.is_enabled():
        runner.scaler.load_state_dict(state["scaler"])
    runner.start_step = state.get("step", (state["epoch"] + 1) * runner.run.iters_per_epoch)
    runner.best_loss = state.get("best_loss", runner.best_loss)
    runner.history = _continue(state.get("history"), runner.start_step, source)
    _warn_of_changes(runner, state.get("config"), source)
    logger.info("resuming %s at step %d", source, runner.start_step)
    if runner.start_step >= runner.num_steps:
        logger.info(
            "nothing is left to do: the run has run.max_epoch * run.iters_per_epoch = %d steps", runner.num_steps
        )


def _load_optimizer(runner: RunnerBase, saved: dict[str, Any], source: str) -> None:
    """Load moments and step counts; rates, decay and betas stay those of the config."""
    own = runner.optimizer.state_dict()["param_groups"]
    sizes = [[len(group["params"]) for group in groups] for groups in (saved["param_groups"], own)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"{source}: its optimizer has groups of {sizes[0]} parameters, this model of {sizes[1]}")
    runner.optimizer.load_state_dict({"state": saved["state"], "param_groups": own})


def _continue(history: Any, step: int, source: str) -> list[tuple[int, int]]:
    """Return the parts of the run so far, with a new one when the number of ranks is another."""
    world_size = get_world_size()
    parts = [(int(first), int(size)) for first, size in history or [(0, world_size)]]
    if parts[-1][1] != world_size:
        logger.warning(
            "%s was written by %d processes, this run has %d: every dataset's pass goes on where it stopped, but the "
            "batches are not those of an unbroken run",
            source,
            parts[-1][1],
            world_size,
        )
        parts = [part for part in parts if part[0] < step] + [(step, world_size)]
    return parts


def _warn_of_changes(runner: RunnerBase, config: Any, source: str) -> None:
    """Say which options that a continued run depends on are no longer those of the checkpoint."""
    saved = (config or {}).get("run", {})
    keys = ("seed", "max_epoch", "iters_per_epoch", "init_lr", "accum_grad_iters", "balance_ranks")
    pairs = [(key, saved.get(key, runner.run[key]), runner.run[key]) for key in keys]
    changed = [f"{key} {before} -> {now}" for key, before, now in pairs if before != now]
    if changed:
        logger.warning("%s was trained with other options: %s", Path(source).name, ", ".join(changed))
