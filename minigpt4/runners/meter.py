"""Measures a run, without waiting for the device between two log lines."""

from __future__ import annotations

import math
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from minigpt4.common.dist_utils import all_reduce_sum, get_rank, get_world_size
from minigpt4.common.schema import RunConfig
from minigpt4.runners.flops import utilisation
from minigpt4.runners.loader import BatchSource
from minigpt4.runners.train_step import LossGuard, StepResult
from minigpt4.runners.update import AccumulationWindow


class Meter:
    """Counts the work of updates, and holds their losses on the device until a log line is due.

    `chosen[step][rank]` is the number, in `names`, of the dataset of a rank's micro-batch. `source` counts the wait for
    batches and the skipped samples. `streams` are datasets that skip unreadable rows and count them as `num_skipped`.
    """

    def __init__(
        self,
        run_cfg: RunConfig,
        *,
        names: Sequence[str],
        chosen: Any,
        source: BatchSource,
        guard: LossGuard,
        learning_rate: Callable[[int], float],
        device: torch.device,
        streams: Mapping[str, Any] | None = None,
    ) -> None:
        self.num_steps, self.log_freq = run_cfg.max_epoch * run_cfg.iters_per_epoch, run_cfg.log_freq
        self.iters_per_epoch, self.learning_rate, self.guard = run_cfg.iters_per_epoch, learning_rate, guard
        self.names, self.chosen, self.source = list(names), chosen, source
        self.device, self.streams = device, dict(streams or {})
        self._losses: list[tuple[int, Tensor]] = []  # of steps without a line, in blocks with their first step
        self._start_again()

    def _start_again(self) -> None:
        self._results: list[StepResult] = []
        self._grad_norms: list[Tensor] = []
        self._began, self._waited_before = time.perf_counter(), self.source.seconds_waited

    def record(
        self, window: AccumulationWindow, result: StepResult, grad_norm: Tensor | None, *, stopped: bool = False
    ) -> list[dict[str, Any]]:
        """Count an update, and return the log lines that are due: every `log_freq` steps and at the end of an epoch.

        Raises: FloatingPointError when a loss is not finite.
        """
        self.add(window.first, result, grad_norm)
        ends = window.completed(self.log_freq)
        if (window.ends_epoch or stopped) and window.last not in ends:
            ends.append(window.last)
        if not ends:
            return []
        self.guard.check()
        return [
            {"epoch": step // self.iters_per_epoch, "step": step, "lr": self.learning_rate(step), **figures}
            for step, figures in zip(ends, self.flush(ends), strict=True)
        ]

    def add(self, first_step: int, result: StepResult, grad_norm: Tensor | None = None) -> None:
        """Count an update; its losses and the norm of its gradient stay on the device."""
        self._losses.append((first_step, result.losses))
        self._results.append(result)
        self._grad_norms += [] if grad_norm is None else [grad_norm]

    def flush(self, ends: Sequence[int]) -> list[dict[str, Any]]:
        """Return the metrics over all ranks, a line for each step of `ends`; this waits for the device.

        The loss of a line is the mean over the micro-batches since the line before. All else is since the last call:
        grad_norm is the mean over updates; samples_per_s and tokens_per_s are totals of all ranks; data_wait is the
        share of time spent waiting for batches; eta_s is the time left in seconds; slowest_rank_share is the slowest
        rank's computing time divided by the mean.
        """
        losses = self._take_losses(ends[-1])
        seconds = time.perf_counter() - self._began
        num_steps = sum(len(result.losses) for result in self._results)
        common = self._rates(seconds, self.source.seconds_waited - self._waited_before)
        self._start_again()
        lines = []
        for end in ends:
            steps = {step: losses.pop(step) for step in list(losses) if step <= end}
            means = {
                "loss": sum(map(sum, steps.values())) / max(len(steps) * get_world_size(), 1),
                "loss_by_dataset": self._by_dataset(steps),
            }
            lines.append({**means, **common, "eta_s": seconds / max(num_steps, 1) * (self.num_steps - end - 1)})
        return lines

    def _take_losses(self, last: int) -> dict[int, list[float]]:
        """Return the losses of each step to `last`, by rank; those of later steps stay for another line."""
        if not self._losses:
            return {}
        first = self._losses[0][0]
        losses = torch.cat([values for _, values in self._losses])
        taken, rest = losses[: last + 1 - first], losses[last + 1 - first :]
        self._losses = [(last + 1, rest)] if len(rest) else []
        return dict(enumerate(all_reduce_sum(taken.double()).tolist(), first))

    def _rates(self, seconds: float, waited: float) -> dict[str, Any]:
        results, source, world_size = self._results, self.source, get_world_size()
        counts = [count[name] for count in (source.num_bad, source.num_too_long) for name in self.names]
        counts += [dataset.num_skipped for dataset in self.streams.values()]
        totals = [sum(getattr(result, key) for result in results) for key in ("num_samples", "num_tokens", "flops")]
        sums = all_reduce_sum(
            torch.tensor([*totals, waited, *counts], dtype=torch.float64, device=self.device)
        ).tolist()
        num = len(self.names)
        bad, too_long, skipped = sums[4 : 4 + num], sums[4 + num : 4 + 2 * num], sums[4 + 2 * num :]
        slowest, share = self._slowest(sum(result.compute_seconds for result in results) + waited)
        return {
            "grad_norm": _finite_mean(self._grad_norms),
            "samples_per_s": sums[0] / seconds,
            "tokens_per_s": sums[1] / seconds,
            "data_wait": sums[3] / world_size / seconds,
            "slowest_rank": slowest,
            "slowest_rank_share": share,
            "memory_gib": _peak_memory(self.device),
            "mfu": utilisation(sums[2] / world_size, seconds=seconds, device=self.device),
            "num_skipped_steps": self.guard.num_skipped,
            "num_bad_samples": _counted(self.names, bad),
            "num_too_long": _counted(self.names, too_long),
            "num_skipped_in_streams": _counted(self.streams, skipped),
        }

    def _by_dataset(self, losses: Mapping[int, Sequence[float]]) -> dict[str, float]:
        found: dict[str, list[float]] = defaultdict(list)
        for step, step_losses in losses.items():
            for number, loss in zip(self.chosen[step], step_losses, strict=True):
                found[self.names[number]].append(loss)
        return {name: sum(values) / len(values) for name, values in sorted(found.items())}

    def _slowest(self, seconds: float) -> tuple[int, float]:
        times = torch.zeros(get_world_size(), dtype=torch.float64, device=self.device)
        times[get_rank()] = seconds
        all_reduce_sum(times)
        return int(times.argmax()), float(times.max() / times.mean().clamp(min=1e-9))


def _counted(names: Any, numbers: Sequence[float]) -> dict[str, int]:
    return {name: int(number) for name, number in zip(names, numbers, strict=True) if number}


def _finite_mean(values: Sequence[Tensor]) -> float | None:
    """Return the mean of the finite values; float16 leaves out updates whose gradients overflow."""
    finite = [value for value in torch.stack(list(values)).tolist() if math.isfinite(value)] if values else []
    return sum(finite) / len(finite) if finite else None


def _peak_memory(device: torch.device) -> float:
    """Return the peak of allocated device memory, or of the process on a CPU, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
