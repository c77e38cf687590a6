"""What happened since the last log line, kept without waiting for the device."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from minigpt4.common.dist_utils import all_reduce_sum, get_world_size
from minigpt4.runners.loader import Loaded

logger = logging.getLogger(__name__)


@dataclass
class _Window:
    losses: list[tuple[int, Tensor, tuple[str, ...]]] = field(default_factory=list)
    num_samples: int = 0
    num_tokens: int = 0
    waiting: float = 0.0
    started: float = field(default_factory=time.perf_counter)


class Meter:
    """Counts samples, tokens and waiting; holds losses on the device until a log line asks for them."""

    def __init__(self, *, num_steps: int, max_bad_samples: int) -> None:
        self.num_steps = num_steps
        self.max_bad_samples = max_bad_samples
        self.num_bad = 0
        self.num_too_long = 0
        self._window = _Window()

    def fetch(self, loaded: Iterator[Loaded]) -> Loaded:
        """Return the next batch, timing the wait; count and name what was left out of it.

        Raises: ValueError when more samples are bad than `run.max_bad_samples` allows.
        """
        began = time.perf_counter()
        item = next(loaded)
        self._window.waiting += time.perf_counter() - began
        self.num_bad += len(item.bad)
        self.num_too_long += len(item.too_long)
        for reason in item.too_long:
            logger.warning("left out, too long: %s", reason)
        for reason in item.bad:
            logger.warning("left out, bad sample: %s", reason)
        if self.num_bad > self.max_bad_samples:
            raise ValueError(
                f"{self.num_bad} bad samples where run.max_bad_samples allows {self.max_bad_samples}; "
                f"the last: {item.bad[-1]}"
            )
        return item

    def add(self, step: int, loss: Tensor, loaded: Loaded) -> None:
        """Count one step; `loss` is detached and stays on its device."""
        if loaded.ids:
            self._window.losses.append((step, loss, loaded.ids))
        self._window.num_samples += len(loaded.ids)
        self._window.num_tokens += len(loaded.batch.input_ids)

    def flush(self, step: int, *, device: torch.device) -> dict[str, Any]:
        """Return the means since the last call over all ranks, and begin anew; the one place that waits for the device.

        loss is the mean over steps and ranks; samples_per_s and tokens_per_s are totals of all ranks; data_wait is the
        share of the time spent waiting for batches; eta_s are seconds at this pace.
        Raises: FloatingPointError naming the step and the samples of the first loss that is not finite.
        """
        window, self._window = self._window, _Window()
        losses = torch.stack([loss for _, loss, _ in window.losses]).double().tolist() if window.losses else []
        for loss, (at, _, ids) in zip(losses, window.losses, strict=True):
            if not math.isfinite(loss):
                raise FloatingPointError(f"loss is {loss} at step {at}; batch: {', '.join(ids)}")
        seconds = time.perf_counter() - window.started
        own = [sum(losses), len(losses), window.num_samples, window.num_tokens, window.waiting, self.num_bad]
        sums = all_reduce_sum(torch.tensor([*own, self.num_too_long], dtype=torch.float64, device=device)).tolist()
        num_steps = max((len(window.losses)), 1)
        return {
            "loss": sums[0] / sums[1] if sums[1] else 0.0,
            "samples_per_s": sums[2] / seconds,
            "tokens_per_s": sums[3] / seconds,
            "data_wait": sums[4] / get_world_size() / seconds,
            "eta_s": seconds / num_steps * (self.num_steps - step - 1),
            "num_bad_samples": int(sums[5]),
            "num_too_long": int(sums[6]),
        }
