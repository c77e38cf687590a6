"""What a run says: lines on the terminal, a progress bar there, one JSON object a line in log.txt, wandb on demand."""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from minigpt4.common.dist_utils import broadcast_object, get_rank, is_main_process

logger = logging.getLogger(__name__)


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


class RunLog:
    """Writes a run's metrics on rank 0; on other ranks it does nothing."""

    def __init__(self, folder: Path, cfg: DictConfig, config: dict[str, Any], *, num_steps: int, start: int) -> None:
        """Open `folder`/log.txt for appending, a progress bar on a terminal, and wandb when the config asks for it."""
        self._active = is_main_process()
        self._num_steps = num_steps
        if not self._active:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "log.txt").open("a", encoding="utf-8")
        self._bar = tqdm(total=num_steps, initial=start, unit="step", disable=not sys.stderr.isatty())
        self._wandb = _start_wandb(cfg, config, folder) if cfg.wandb_log else None

    def advance(self) -> None:
        """Move the progress bar by one step."""
        if self._active:
            self._bar.update()

    def write(self, metrics: dict[str, Any]) -> None:
        """Write one line of metrics to the terminal, to log.txt and to wandb."""
        if not self._active:
            return
        logger.info(_as_line(metrics, self._num_steps))
        self._file.write(json.dumps(metrics) + "\n")
        self._file.flush()
        if self._wandb is not None:
            self._wandb.log({k: v for k, v in metrics.items() if k != "step"}, step=metrics["step"])

    def close(self) -> None:
        """Close everything that was opened."""
        if not self._active:
            return
        self._bar.close()
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish()


def _as_line(metrics: dict[str, Any], num_steps: int) -> str:
    eta = datetime.timedelta(seconds=round(metrics["eta_s"]))
    return (
        f"epoch {metrics['epoch']} step {metrics['step'] + 1}/{num_steps} loss {metrics['loss']:.4f} "
        f"lr {metrics['lr']:.3g} | {metrics['samples_per_s']:.1f} samples/s {metrics['tokens_per_s']:.0f} tokens/s "
        f"data wait {metrics['data_wait']:.0%} | eta {eta}"
    )


def _start_wandb(run_cfg: DictConfig, config: dict[str, Any], folder: Path) -> Any:
    """Return a wandb run, offline where no key is set so that it never asks; None with one warning without wandb."""
    try:
        import wandb
    except ImportError:
        logger.warning("run.wandb_log is True but wandb is not installed (pip install wandb); log.txt has it all")
        return None
    mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"
    return wandb.init(project="minigptv2", name=run_cfg.job_name, config=config, dir=str(folder), mode=mode)
