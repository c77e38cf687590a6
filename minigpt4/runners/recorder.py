"""Records what a run does: metrics of its updates when a log line is due, losses of validations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from minigpt4.common.schema import RunConfig
from minigpt4.runners.flops import utilisation
from minigpt4.runners.guard import LossGuard
from minigpt4.runners.meter import Meter
from minigpt4.runners.run_log import RunLog
from minigpt4.runners.train_step import StepResult
from minigpt4.runners.update import AccumulationWindow


class Recorder:
    """Writes a log line every `log_freq` steps and at the end of an epoch.

    `last_line` has the latest value of each metric.
    """

    def __init__(
        self, log: RunLog, meter: Meter, guard: LossGuard, *, run_cfg: RunConfig, learning_rate: Callable[[int], float]
    ) -> None:
        self.log, self.meter, self.guard, self.learning_rate = log, meter, guard, learning_rate
        self.log_freq, self.iters_per_epoch = run_cfg.log_freq, run_cfg.iters_per_epoch
        self.last_line: dict[str, Any] = {}

    def record(
        self, window: AccumulationWindow, result: StepResult, grad_norm: Tensor | None, *, stopped: bool = False
    ) -> None:
        """Count an update, and write the lines that are due. Raises: FloatingPointError when a loss is not finite."""
        self.meter.add(window.first, result, grad_norm)
        self.log.advance(window.num_steps)
        ends = window.completed(self.log_freq)
        if (window.ends_epoch or stopped) and window.last not in ends:
            ends.append(window.last)
        if not ends:
            return
        self.guard.check()
        for step, figures in zip(ends, self.meter.flush(ends), strict=True):
            figures["mfu"] = utilisation(figures.pop("flops_per_s"), seconds=1.0, device=self.meter.device)
            figures["num_skipped_steps"] = self.guard.num_skipped
            self._write(step, {"lr": self.learning_rate(step), **figures})

    def validated(self, step: int, losses: Mapping[str, float]) -> float:
        """Write the losses of the held-out splits after a step, and return their mean."""
        loss = sum(losses.values()) / len(losses)
        self._write(step, {"valid_loss": loss, "valid_loss_by_dataset": dict(losses)})
        return loss

    def _write(self, step: int, figures: Mapping[str, Any]) -> None:
        line = {"epoch": step // self.iters_per_epoch, "step": step, **figures}
        self.log.write(line)
        self.last_line |= line
