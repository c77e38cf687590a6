"""What happened since the last log line, kept without waiting for the device."""

from __future__ import annotations

import math
import resource
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from minigpt4.common.dist_utils import all_reduce_sum, get_rank, get_world_size
from minigpt4.runners.batch_source import BatchSource
from minigpt4.runners.train_step import StepResult


@dataclass
class _SinceFlush:
    num_steps: int = 0
    num_samples: int = 0
    num_tokens: int = 0
    flops: float = 0.0
    compute_seconds: float = 0.0  # of this rank's own work, before it waits for others
    grad_norms: list[Tensor] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)


class Meter:
    """Counts what updates take; holds their losses on the device until a log line asks for them.

    `chosen[step][rank]` is the number, in `names`, of the dataset that a rank drew at a step. `source` knows how long
    batches were waited for, and which samples were skipped. `streams` are the datasets that skip what they cannot read,
    and count it as `num_skipped`.
    """

    def __init__(
        self,
        *,
        num_steps: int,
        names: Sequence[str],
        chosen: Any,
        source: BatchSource,
        device: torch.device,
        streams: Mapping[str, Any] | None = None,
    ) -> None:
        self.num_steps, self.names, self.chosen, self.source = num_steps, list(names), chosen, source
        self.device, self.streams = device, dict(streams or {})
        self._losses: list[tuple[int, Tensor]] = []  # steps that no line has, each time with their first one
        self._since = _SinceFlush()
        self._seconds_waited = source.seconds_waited

    def add(self, first_step: int, result: StepResult, grad_norm: Tensor | None = None) -> None:
        """Count an update; its losses and the norm of its gradient stay on the device."""
        since = self._since
        self._losses.append((first_step, result.losses))
        since.num_steps += len(result.losses)
        since.num_samples += result.num_samples
        since.num_tokens += result.num_tokens
        since.flops += result.flops
        since.compute_seconds += result.compute_seconds
        since.grad_norms += [] if grad_norm is None else [grad_norm]

    def flush(self, ends: Sequence[int]) -> list[dict[str, Any]]:
        """Return the figures over all ranks, a line for each step of `ends`; this waits for the device.

        A line's loss is the mean over its steps and draws, from the line before on. All else is since the last call:
        grad_norm is the mean over its updates; samples_per_s and tokens_per_s are totals of all ranks; data_wait is the
        share of the time spent waiting for batches; eta_s are seconds at this pace; slowest_rank_share is how much
        longer than the mean the slowest rank's own work took.
        """
        losses = self._take_losses(ends[-1])
        since, self._since = self._since, _SinceFlush()
        waited, self._seconds_waited = self.source.seconds_waited - self._seconds_waited, self.source.seconds_waited
        seconds = time.perf_counter() - since.started
        common = self._rates(since, seconds, waited)
        lines = []
        for end in ends:
            steps = {step: losses.pop(step) for step in list(losses) if step <= end}
            means = {
                "loss": sum(map(sum, steps.values())) / max(len(steps) * get_world_size(), 1),
                "loss_by_dataset": self._by_dataset(steps),
            }
            eta = seconds / max(since.num_steps, 1) * (self.num_steps - end - 1)
            lines.append({**means, **common, "eta_s": eta})
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

    def _rates(self, since: _SinceFlush, seconds: float, waited: float) -> dict[str, Any]:
        source = self.source
        counts = [count[name] for count in (source.num_bad, source.num_too_long) for name in self.names]
        counts += [dataset.num_skipped for dataset in self.streams.values()]
        own = [since.num_samples, since.num_tokens, since.flops, waited, *counts]
        sums = all_reduce_sum(torch.tensor(own, dtype=torch.float64, device=self.device)).tolist()
        num = len(self.names)
        bad, too_long, skipped = sums[4 : 4 + num], sums[4 + num : 4 + 2 * num], sums[4 + 2 * num :]
        slowest, share = self._slowest(since.compute_seconds + waited)
        return {
            "grad_norm": _finite_mean(since.grad_norms),
            "samples_per_s": sums[0] / seconds,
            "tokens_per_s": sums[1] / seconds,
            "flops_per_s": sums[2] / seconds / get_world_size(),
            "data_wait": sums[3] / get_world_size() / seconds,
            "slowest_rank": slowest,
            "slowest_rank_share": share,
            "memory_gib": _peak_memory(self.device),
            "num_bad_samples": {name: int(n) for name, n in zip(self.names, bad, strict=True) if n},
            "num_too_long": {name: int(n) for name, n in zip(self.names, too_long, strict=True) if n},
            "num_skipped_in_streams": {name: int(n) for name, n in zip(self.streams, skipped, strict=True) if n},
        }

    def _by_dataset(self, losses: Mapping[int, Sequence[float]]) -> dict[str, float]:
        drawn: dict[str, list[float]] = defaultdict(list)
        for step, step_losses in losses.items():
            for number, loss in zip(self.chosen[step], step_losses, strict=True):
                drawn[self.names[number]].append(loss)
        return {name: sum(values) / len(values) for name, values in sorted(drawn.items())}

    def _slowest(self, seconds: float) -> tuple[int, float]:
        own = torch.zeros(get_world_size(), dtype=torch.float64, device=self.device)
        own[get_rank()] = seconds
        times = all_reduce_sum(own)
        return int(times.argmax()), float(times.max() / times.mean().clamp(min=1e-9))


def _finite_mean(values: Sequence[Tensor]) -> float | None:
    """Return the mean of the finite values; float16 leaves out updates whose gradients overflow."""
    finite = [value for value in torch.stack(list(values)).tolist() if math.isfinite(value)] if values else []
    return sum(finite) / len(finite) if finite else None


def _peak_memory(device: torch.device) -> float:
    """Return the peak of allocated device memory, or of the process on a CPU, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
