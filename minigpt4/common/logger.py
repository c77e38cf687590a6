"""Lines on the terminal, and the name of a run's folder."""

from __future__ import annotations

import datetime
import logging
import sys
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from minigpt4.common.dist_utils import broadcast_object, get_rank


class _TqdmHandler(logging.StreamHandler[Any]):
    """Writes log lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def setup_logger() -> None:
    """Log from rank 0 at INFO; the other ranks speak only of warnings and errors, with their number."""
    rank = get_rank()
    name = "" if rank == 0 else f" [rank {rank}]"
    handler = _TqdmHandler()
    handler.setFormatter(logging.Formatter(f"%(asctime)s{name} %(levelname)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, handlers=[handler], force=True)


def new_job_id(run_cfg: DictConfig) -> str:
    """Return the folder name of this run below `run.output_dir`, the same on every rank: `run.job_id` or the time."""
    return broadcast_object(run_cfg.job_id or datetime.datetime.now().strftime("%Y%m%d%H%M%S"))
