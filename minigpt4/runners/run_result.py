"""RunResult: how a training ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a training ended; the same on every rank.

    folder: the job's folder; checkpoint: the last one that was saved, or None; figures: the latest value of each metric
    of log.txt and metrics.jsonl, with `run.evaluate` the loss of each dataset and split; stopped: whether a signal
    ended the run before its last step; num_steps: the steps that are done, also those before the run was resumed.
    """

    folder: Path
    checkpoint: Path | None
    figures: Mapping[str, Any]
    stopped: bool
    num_steps: int
