"""What a checkpoint holds of a run, and how a run goes on with it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from minigpt4.common.checkpoint import NEEDED_TO_RESUME, read_checkpoint
from minigpt4.common.config import Config
from minigpt4.common.dist_utils import get_world_size, is_main_process
from minigpt4.common.model_match import check_match, refuse_mismatch
from minigpt4.runners.changes import Change, changed_options, num_rows_of
from minigpt4.runners.checkpoints import AUTO, read_newest
from minigpt4.tasks.base_task import Datasets

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
        "num_rows": num_rows_of(runner.datasets),
        "changes": runner.changes,
    }


def resume(runner: RunnerBase) -> None:
    """Bring a runner to where the checkpoint of `run.resume_ckpt_path` left off, if there is one.

    A checkpoint without a step is one of the published trainer, written at the end of its epoch.
    Raises: ValueError naming the file when it cannot be resumed, or its options make it another run.
    """
    opened = _open(runner.run, runner.folder)
    if opened is None and runner.run.resume_ckpt_path == AUTO:
        logger.info("run.resume_ckpt_path is auto and %s has no checkpoint: the run starts at step 0", runner.folder)
    if opened is None:
        return
    source, state = opened
    changes = _changes(runner.cfg, runner.datasets, state, source)
    _report(changes, source, is_compared=isinstance(state.get("config"), Mapping))
    step = state.get("step")
    runner.changes = list(state.get("changes", ()))  # what differed when earlier checkpoints were resumed
    runner.changes += [{"checkpoint": source, "step": step, **asdict(change)} for change in changes]
    found = check_match(state, runner.cfg.model_cfg, source, allowed=runner.run.allow_changes)
    runner.model.mismatches = list(dict.fromkeys([*runner.model.mismatches, *found]))
    runner.model.load_trainable_state(state["model"], source=source)
    _load_optimizer(runner, state["optimizer"], source)
    if state.get("scaler") is not None and runner.scaler.is_enabled():
        runner.scaler.load_state_dict(state["scaler"])
    runner.start_step = state.get("step", (state["epoch"] + 1) * runner.run.iters_per_epoch)
    runner.best_loss = state.get("best_loss", runner.best_loss)
    runner.history = _continue(state.get("history"), runner.start_step, source)
    logger.info("resuming %s at step %d", source, runner.start_step)
    if runner.start_step >= runner.num_steps:
        logger.info(
            "nothing is left to do: the run has run.max_epoch * run.iters_per_epoch = %d steps", runner.num_steps
        )


def refuse_changes(cfg: Config, datasets: Datasets, job_id: str) -> None:
    """Refuse the checkpoint of `run.resume_ckpt_path` as `resume` would, before the model is built.

    Rank 0 alone reads it. Raises: ValueError as `resume`.
    """
    found = _open(cfg.run_cfg, Path(cfg.run_cfg.output_dir) / job_id) if is_main_process() else None
    if found is None:
        return
    source, state = found
    _changes(cfg, datasets, state, source)
    refuse_mismatch(state, cfg.model_cfg, source, allowed=cfg.run_cfg.allow_changes)


def _open(run_cfg: DictConfig, folder: Path) -> tuple[str, dict[str, Any]] | None:
    """Return the path and content of the checkpoint that is resumed; with `auto` the newest of the job's folder."""
    path = run_cfg.resume_ckpt_path
    if not path:
        return None
    if path == AUTO:
        newest = read_newest(folder, iters_per_epoch=run_cfg.iters_per_epoch)
        if newest is None:
            return None
        source, state = str(newest[0]), newest[1]
    else:
        source, state = path, read_checkpoint(path)
    missing = [key for key in NEEDED_TO_RESUME if key not in state]
    if missing:
        raise ValueError(f"run.resume_ckpt_path: {source} cannot be resumed, it has no {', '.join(missing)}")
    return source, state


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


def _changes(cfg: Config, datasets: Datasets, state: Mapping[str, Any], source: str) -> list[Change]:
    """Return the options that differ from those of the checkpoint.

    Raises: ValueError that lists all of them when one needs `run.allow_changes`.
    """
    config = state.get("config")
    if not isinstance(config, Mapping):
        return []
    rows_now = num_rows_of(datasets)
    changes = changed_options(config, cfg.to_dict(), rows_before=state.get("num_rows"), rows_now=rows_now)
    if cfg.run_cfg.evaluate:  # no step is taken, so the model alone counts
        changes = [change for change in changes if change.option.startswith("model.")]
    allowed = "model." if cfg.model_cfg.allow_mismatch else None
    refused = [one.option for one in changes if one.refused and not (allowed and one.option.startswith(allowed))]
    if refused and not cfg.run_cfg.allow_changes:
        raise ValueError(
            f"{source} was trained with other options (checkpoint -> this run):\n  "
            + "\n  ".join(map(str, changes))
            + f"\nthis run would not continue that one, because of {', '.join(refused)}; "
            "to resume all the same: --options run.allow_changes=True"
        )
    return changes


def _report(changes: Sequence[Change], source: str, *, is_compared: bool) -> None:
    """Warn of every option that differs, once for all ranks."""
    if not is_compared:
        logger.info("%s holds no config, so its options are not compared with those of this run", source)
    if changes and is_main_process():
        lines = "\n  ".join(map(str, changes))
        refused = [change.option for change in changes if change.refused]
        allowed = f"\nrun.allow_changes allows {', '.join(refused)}" if refused else ""
        logger.warning("%s was trained with other options (checkpoint -> this run):\n  %s%s", source, lines, allowed)
