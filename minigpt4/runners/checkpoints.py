"""The checkpoints of a job: their names, which is the newest, and which are kept."""

from __future__ import annotations

import datetime
import json
import logging
import re
from pathlib import Path
from typing import Any

from minigpt4.common.checkpoint import read_checkpoint, write_checkpoint
from minigpt4.common.dist_utils import broadcast_object, is_main_process
from minigpt4.common.files import NotWrittenError, free_bytes, megabytes, no_room
from minigpt4.common.schema import RunConfig

logger = logging.getLogger(__name__)

AUTO = "auto"
RUN_FILE = "run.json"
_NAME = re.compile(r"checkpoint_(?:(?P<epoch>\d+)|step_(?P<step>\d+))\.pth")


def newest_first(folder: Path, *, iters_per_epoch: int) -> list[Path]:
    """Return the checkpoints of a folder, the furthest one first; half-written files have other names."""
    found = []
    for path in folder.glob("checkpoint_*.pth"):
        if match := _NAME.fullmatch(path.name):
            step = int(match["step"]) if match["step"] else (int(match["epoch"]) + 1) * iters_per_epoch
            found.append((step, path))
    return [path for _, path in sorted(found, reverse=True)]


def read_newest(folder: Path, *, iters_per_epoch: int) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest readable checkpoint of a folder; a damaged one is named and skipped."""
    for path in newest_first(folder, iters_per_epoch=iters_per_epoch):
        try:
            return path, read_checkpoint(path)
        except ValueError as error:
            logger.warning("%s is skipped", error)
    return None


def choose_job(run_cfg: RunConfig) -> str:
    """Return the name of the run's folder below `run.output_dir`, the same on every rank.

    That is `run.job_id`; or with `resume_ckpt_path: auto` the newest job of `run.job_name` that has a checkpoint; or
    the time.
    """
    chosen = run_cfg.job_id
    if chosen is None and is_main_process() and run_cfg.resume_ckpt_path == AUTO:
        folders = [path.parent for path in Path(run_cfg.output_dir).glob(f"*/{RUN_FILE}") if _is_of(path, run_cfg)]
        jobs = [folder for folder in folders if newest_first(folder, iters_per_epoch=1)]
        chosen = max(jobs, key=lambda folder: folder.stat().st_mtime).name if jobs else None
    return broadcast_object(chosen or datetime.datetime.now().strftime("%Y%m%d%H%M%S"))


def _is_of(path: Path, run_cfg: RunConfig) -> bool:
    """Return whether a run.json is of a job of `run.job_name`."""
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        logger.warning("%s is skipped: %s", path, error)
        return False
    return bool(written.get("config", {}).get("run", {}).get("job_name") == run_cfg.job_name)


class Checkpoints:
    """Writes the checkpoints of a job and deletes the oldest above `keep_last`."""

    def __init__(self, folder: Path, *, iters_per_epoch: int, keep_last: int | None) -> None:
        self.folder, self.iters_per_epoch, self.keep_last = folder, iters_per_epoch, keep_last

    def check_room(self, num_bytes: int, *, step: int) -> None:
        """Warn when the disk has no room for two checkpoints of `num_bytes`.

        Raises: NotWrittenError, a ValueError, when there is no room for one.
        """
        path = self.folder / f"checkpoint_{step // self.iters_per_epoch}.pth"
        if (problem := no_room(path, num_bytes)) is not None:
            raise NotWrittenError(problem)
        if (free := free_bytes(path)) < 2 * num_bytes:
            message = "%s: the disk has %s free, and a checkpoint needs %s; run.keep_last deletes older ones"
            logger.warning(message, self.folder, megabytes(free), megabytes(num_bytes))

    def path_of(self, *, epoch: int, step: int) -> Path:
        """Return checkpoint_{epoch}.pth for the end of an epoch, checkpoint_step_{step}.pth inside one."""
        ends = step == (epoch + 1) * self.iters_per_epoch
        return self.folder / (f"checkpoint_{epoch}.pth" if ends else f"checkpoint_step_{step}.pth")

    def save(self, state: dict[str, Any]) -> Path:
        """Write a checkpoint and return its path."""
        path = self.path_of(epoch=state["epoch"], step=state["step"])
        for half in self.folder.glob(".checkpoint_*.part"):  # of a process that was killed while it wrote
            half.unlink()
        write_checkpoint(path, state)
        logger.info("saved %s", path)
        if self.keep_last is not None:
            for old in newest_first(self.folder, iters_per_epoch=self.iters_per_epoch)[self.keep_last :]:
                old.unlink()
        return path

    def save_best(self, state: dict[str, Any]) -> None:
        """Write checkpoint_best.pth, which only a better one replaces."""
        write_checkpoint(self.folder / "checkpoint_best.pth", state)
