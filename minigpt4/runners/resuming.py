"""Resumes a run from a checkpoint, unless its options make it another run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minigpt4.common.checkpoint import NEEDED_TO_RESUME, read_checkpoint
from minigpt4.common.config import Config
from minigpt4.common.dist_utils import is_main_process
from minigpt4.common.model_match import check_match, refuse_mismatch
from minigpt4.common.schema import RunConfig
from minigpt4.runners.changes import Change, changed_options, num_rows_of
from minigpt4.runners.checkpoints import AUTO, read_newest
from minigpt4.runners.train_state import TrainState
from minigpt4.tasks.base_task import Datasets

logger = logging.getLogger(__name__)


def resume(state: TrainState, cfg: Config, datasets: Datasets, folder: Path) -> Path | None:
    """Load the checkpoint of `run.resume_ckpt_path` into `state`, and return its path, None without a checkpoint.

    Raises: ValueError naming the file when it cannot be resumed, or its options make it another run.
    """
    opened = _open(cfg.run_cfg, folder)
    if opened is None:
        if cfg.run_cfg.resume_ckpt_path == AUTO:
            logger.info("run.resume_ckpt_path is auto and %s has no checkpoint: the run starts at step 0", folder)
        return None
    source, checkpoint = opened
    changes = _changes(cfg, datasets, checkpoint, source)
    if not isinstance(checkpoint.get("config"), Mapping):
        logger.info("%s holds no config, so its options are not compared with those of this run", source)
    if changes and is_main_process():
        refused = [change.option for change in changes if change.refused]
        allowed = f"\nrun.allow_changes allows {', '.join(refused)}" if refused else ""
        logger.warning("%s%s", _listed(changes, source), allowed)
    found = check_match(checkpoint, cfg.model_cfg, source, allowed=cfg.run_cfg.allow_changes)
    state.model.mismatches = list(dict.fromkeys([*state.model.mismatches, *found]))
    state.load_state_dict(checkpoint, source=source)
    step = checkpoint.get("step")
    state.changes += [{"checkpoint": source, "step": step, **asdict(change)} for change in changes]
    num_steps = cfg.run_cfg.max_epoch * cfg.run_cfg.iters_per_epoch
    logger.info("resuming %s at step %d", source, state.step)
    if state.step >= num_steps:
        logger.info("nothing is left to do: the run has run.max_epoch * run.iters_per_epoch = %d steps", num_steps)
    return Path(source)


def refuse_changes(cfg: Config, datasets: Datasets, job_id: str) -> None:
    """Refuse the checkpoint of `run.resume_ckpt_path` as `resume` would, before the model is built.

    Rank 0 alone reads it. Raises: ValueError as `resume`.
    """
    found = _open(cfg.run_cfg, Path(cfg.run_cfg.output_dir) / job_id) if is_main_process() else None
    if found is not None:
        source, checkpoint = found
        _changes(cfg, datasets, checkpoint, source)
        refuse_mismatch(checkpoint, cfg.model_cfg, source, allowed=cfg.run_cfg.allow_changes)


def _open(run_cfg: RunConfig, folder: Path) -> tuple[str, dict[str, Any]] | None:
    """Return the path and content of the checkpoint to resume; with `auto` the newest of the job's folder."""
    path = run_cfg.resume_ckpt_path
    if not path:
        return None
    newest = (
        read_newest(folder, iters_per_epoch=run_cfg.iters_per_epoch) if path == AUTO else (path, read_checkpoint(path))
    )
    if newest is None:
        return None
    source, state = str(newest[0]), newest[1]
    missing = [key for key in NEEDED_TO_RESUME if key not in state]
    if missing:
        raise ValueError(f"run.resume_ckpt_path: {source} cannot be resumed, it has no {', '.join(missing)}")
    return source, state


def _changes(cfg: Config, datasets: Datasets, state: Mapping[str, Any], source: str) -> list[Change]:
    """Return the options that differ from those of the checkpoint.

    Raises: ValueError that lists all of them when one needs `run.allow_changes`.
    """
    config = state.get("config")
    if not isinstance(config, Mapping):
        return []
    rows_now = num_rows_of(datasets)
    changes = changed_options(config, cfg.to_dict(), rows_before=state.get("num_rows"), rows_now=rows_now)
    if cfg.run_cfg.evaluate:  # no step is taken, so only the model counts
        changes = [change for change in changes if change.option.startswith("model.")]
    allowed = ("model.",) if cfg.model_cfg.allow_mismatch else ()
    refused = [one.option for one in changes if one.refused and not one.option.startswith(allowed)]
    if refused and not cfg.run_cfg.allow_changes:
        raise ValueError(
            f"{_listed(changes, source)}\nthis run would not continue that one, because of {', '.join(refused)}; "
            "to resume all the same: --options run.allow_changes=True"
        )
    return changes


def _listed(changes: Sequence[Change], source: str) -> str:
    lines = "\n  ".join(map(str, changes))
    return f"{source} was trained with other options (checkpoint -> this run):\n  {lines}"
