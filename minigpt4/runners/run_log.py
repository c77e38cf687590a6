"""Writes run.json, and the metrics of a run: terminal, log.txt, metrics.jsonl, TensorBoard, wandb, report page."""

from __future__ import annotations

import datetime
import json
import logging
import math
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import torch
from tqdm import tqdm

from minigpt4.common.dist_utils import get_world_size, is_main_process
from minigpt4.common.files import NotWrittenError, append_text, write_text
from minigpt4.common.schema import RunConfig
from minigpt4.common.weight_identity import labels
from minigpt4.datasets.mixture import MixtureComponent, mixing_weights
from minigpt4.reports.metrics_log import METRICS
from minigpt4.reports.run_page import write_run_page
from minigpt4.runners.sinks import Sinks
from minigpt4.runners.train_state import TrainState

logger = logging.getLogger(__name__)

LOG = "log.txt"
LOG_KEYS = (
    *("epoch", "step", "loss", "grad_norm", "lr", "samples_per_s", "tokens_per_s", "data_wait", "eta_s"),
    *("num_bad_samples", "num_too_long", "num_skipped_in_streams", "num_skipped_steps", "valid_loss"),
)
"""The keys of log.txt, where counts of datasets are summed; metrics.jsonl has all keys."""

LINE: tuple[dict[str, str], ...] = (
    {
        "epoch": "epoch {}",
        "step": "step {}",
        "loss": "loss {:.4f}",
        "valid_loss": "valid loss {:.4f}",
        "lr": "lr {:.3g}",
    },
    {
        "samples_per_s": "{:.1f} samples/s",
        "tokens_per_s": "{:.0f} tokens/s",
        "mfu": "mfu {:.0%}",
        "data_wait": "data wait {:.0%}",
        "memory_gib": "{:.1f} GiB",
    },
    {"slow": "{}"},
    {"eta": "eta {}"},
)
"""The groups of the terminal's line."""
SLOW = 1.1
"""The log names the slowest rank when it takes this many times the mean."""

PACKAGES = ("torch", "transformers", "peft", "timm", "numpy", "pillow", "sentencepiece", "omegaconf")


class _Bar(tqdm):  # type: ignore[misc]  # tqdm has no types
    """A progress bar without tqdm's thread, which would outlive the run."""

    monitor_interval = 0


class RunLog:
    """Writes a run's metrics on rank 0; on other ranks it does nothing.

    metrics.jsonl also has `time`, in seconds since 1970, and `start_step`, the first step of the process that wrote it.
    `last_line` has the latest value of each metric, on all ranks.
    """

    def __init__(self, folder: Path, run_cfg: RunConfig, config: dict[str, Any], *, num_steps: int, start: int) -> None:
        """Open the files for appending, a progress bar on a terminal, TensorBoard and wandb."""
        self.last_line: dict[str, Any] = {}
        self._active = is_main_process()
        if not self._active:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._num_steps, self._start = folder, num_steps, start
        self._steps_an_epoch = run_cfg.iters_per_epoch
        self._short, self._full = _open_to_append(folder / LOG), _open_to_append(folder / METRICS)
        self._bar = _Bar(total=num_steps, initial=start, unit="step", disable=not sys.stderr.isatty())
        self._sinks = Sinks(folder, run_cfg, config, start=start)

    def advance(self, num_steps: int = 1) -> None:
        """Move the progress bar."""
        if self._active:
            self._bar.update(num_steps)

    def write(self, metrics: dict[str, Any]) -> None:
        """Write one line of metrics everywhere, `step` among them; an epoch's last step also renews the page."""
        self.last_line |= metrics
        if not self._active:
            return
        logger.info(as_line(metrics, self._num_steps))
        if metrics.get("loss") is not None:
            self._bar.set_postfix_str(f"loss {metrics['loss']:.4f}", refresh=False)
        _write_line(self._short, {key: _total(metrics[key]) for key in LOG_KEYS if key in metrics})
        _write_line(self._full, {**metrics, "time": round(time.time(), 1), "start_step": self._start})
        self._sinks.write(metrics)
        if (metrics["step"] + 1) % self._steps_an_epoch == 0:
            self._write_page()

    def close(self) -> None:
        """Close all files and write the page; closing again does nothing."""
        if not self._active:
            return
        self._active = False
        for file in (self._bar, self._short, self._full):
            file.close()
        self._write_page()
        self._sinks.close()

    def _write_page(self) -> None:
        try:
            write_run_page(self._folder)
        except (NotWrittenError, OSError) as error:
            logger.warning("the report cannot be written: %s", error)
        except Exception:  # no error of a page may end the run
            logger.warning("the report cannot be written", exc_info=True)


def as_line(metrics: Mapping[str, Any], num_steps: int) -> str:
    """Return the line for the terminal, without metrics that are absent or None."""
    shown = {key: value for key, value in metrics.items() if value is not None}
    shown |= {"step": f"{metrics['step'] + 1}/{num_steps}"}
    if "eta_s" in shown:
        shown["eta"] = datetime.timedelta(seconds=round(shown["eta_s"]))
    if shown.get("slowest_rank_share", 0) > SLOW:
        shown["slow"] = f"rank {shown.get('slowest_rank')} takes {shown['slowest_rank_share']:.1f}x the mean"
    groups = [[form.format(shown[key]) for key, form in group.items() if key in shown] for group in LINE]
    return " | ".join(" ".join(parts) for parts in groups if parts)


def _open_to_append(path: Path) -> TextIO:
    """Open a file of lines; ends its last line where a crash has cut it."""
    file = path.open("a+", encoding="utf-8")
    if file.tell():
        with path.open("rb") as there:
            there.seek(-1, 2)
            file.write("" if there.read() == b"\n" else "\n")
    return file


def _write_line(file: TextIO, values: dict[str, Any]) -> None:
    append_text(file, file.name, json.dumps(_strict(values)) + "\n")


def _strict(value: Any) -> Any:
    """Return the value for JSON, where a number that is not finite is null."""
    if isinstance(value, Mapping):
        return {key: _strict(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _total(value: Any) -> Any:
    return sum(value.values()) if isinstance(value, Mapping) else value


def write_run_file(
    path: Path, state: TrainState, components: Sequence[MixtureComponent], *, num_steps: int, device: torch.device
) -> dict[str, Any]:
    """Write run.json, whole or not at all; return its content."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    model = state.model
    content = {
        "versions": {"python": platform.python_version(), **{p: metadata.version(p) for p in PACKAGES}},
        "device": f"{device.type}: {name}",
        "world_size": get_world_size(),
        "seed": state.config["run"]["seed"],
        "num_trainable": model.num_trainable(),
        "num_frozen": sum(p.numel() for p in model.parameters() if not p.requires_grad),
        "fingerprint": labels(state.frozen_weights_hash),
        "mismatches": list(model.mismatches),
        "mixture": _mixture(components, num_micro_batches=num_steps * get_world_size()),
        "changed_options": state.changes,
        "config": state.config,
    }
    write_text(path, json.dumps(content, indent=2) + "\n")
    return content


def _mixture(components: Sequence[MixtureComponent], *, num_micro_batches: int) -> list[dict[str, Any]]:
    """Return rows, batch size, ratio and expected number of samples of each dataset, over all ranks."""
    return [
        {
            "dataset": component.name,
            "num_rows": component.num_rows,
            "batch_size": component.batch_size,
            "sample_ratio": component.ratio,
            "share": float(share),
            "expected_samples": round(share * num_micro_batches * component.batch_size),
        }
        for component, share in zip(components, mixing_weights(components), strict=True)
    ]
