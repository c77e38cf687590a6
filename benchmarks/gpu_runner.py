"""The trainer with a clock: what a training case measures, and how it counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minigpt4.datasets.mixture import MixtureDataset
from minigpt4.runners.checkpoints import Checkpoints
from minigpt4.runners.flops import ModelFlops, utilisation
from minigpt4.runners.loader import PackedBatch
from minigpt4.runners.runner_base import RunnerBase
from minigpt4.runners.train_step import LossGuard


class Stopwatch:
    """Adds up the host's seconds of waiting: for batches, and for the loss of the step before."""

    def __init__(self) -> None:
        self.data = self.loss = 0.0


class WatchedGuard(LossGuard):
    """The loss guard, its waiting timed."""

    watch_: Stopwatch

    def check(self) -> None:
        """Check the loss that was taken last."""
        began = time.perf_counter()
        super().check()
        self.watch_.loss += time.perf_counter() - began


class KeepNothing(Checkpoints):
    """Writes no checkpoint, which would be most of a short run's time."""

    def save(self, state: dict[str, Any]) -> Path:
        """Return the folder."""
        return self.folder


class MeasuredRunner(RunnerBase):
    """The trainer, its clock read with the device waited for at the end of the warm-up and of the run alone."""

    num_warmup = 0
    profiler: Any = None
    cycle: int | None = None

    def begin(self, *, num_warmup: int, cudnn: bool, cycle: int | None = None, profiler: Any = None) -> None:
        """Start to count; cuDNN's attention is switched here, as building a runner may switch it.

        With `cycle` the run repeats its first `cycle` batches from memory, so that every shape is known.
        """
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
        self.num_warmup, self.profiler, self.cycle = num_warmup, profiler, cycle
        self.flops_of = ModelFlops(self.model)
        self.samples = self.tokens = 0
        self.flops = 0.0
        self.watch = Stopwatch()
        self.marks: list[tuple[float, int, int, float, float, float]] = []
        self.checkpoints = KeepNothing(self.folder, iters_per_epoch=1, keep_last=None)
        guard = WatchedGuard(self.folder, max_skipped_steps=self.run.max_skipped_steps)
        guard.watch_ = self.watch
        self.guard = self.step.guard = guard
        advance = self.state.advance

        def marked(*args: Any, **options: Any) -> Tensor | None:
            norm = advance(*args, **options)
            self._mark()
            return norm

        self.state.advance = marked  # type: ignore[method-assign]

    def loader(self, dataset: MixtureDataset, sampler: Any) -> Iterable[list[PackedBatch]]:
        """Return the loader, its waits timed."""
        return self._timed(iter(super().loader(dataset, sampler)), len(sampler))

    def _timed(self, batches: Iterator[list[PackedBatch]], num_items: int) -> Iterator[list[PackedBatch]]:
        kept: list[list[PackedBatch]] = []
        for number in range(num_items):
            began = time.perf_counter()
            if self.cycle is not None and number >= self.cycle:
                packed_batches = kept[number % self.cycle]
            else:
                packed_batches = next(batches)
                kept += [packed_batches] if self.cycle is not None else []
            self.watch.data += time.perf_counter() - began
            self._count(packed_batches)
            yield packed_batches

    def _count(self, packed_batches: list[PackedBatch]) -> None:
        batches = [packed.batch for packed in packed_batches]
        self.samples += sum(len(batch.seq_lens) for batch in batches)
        self.tokens += sum(sum(batch.seq_lens) for batch in batches)
        self.flops += sum(self.flops_of(batch) for batch in batches if len(batch.seq_lens))

    def _mark(self) -> None:
        number = len(self.marks) + 1
        is_profiled = self.profiler is not None and number == self.num_warmup + 1
        if is_profiled or number in (self.num_warmup, self.num_updates):
            synchronize(self.device)
        if self.profiler is not None and number == self.num_warmup:
            self.profiler.start()
        waited = (self.watch.data, self.watch.loss)
        self.marks.append((time.perf_counter(), self.samples, self.tokens, self.flops, *waited))
        if is_profiled:
            self.profiler.stop()

    @property
    def num_updates(self) -> int:
        """Return how many updates the run takes."""
        return int(self.num_steps // self.run.accum_grad_iters)

    def figures(self) -> dict[str, Any]:
        """Return what was measured behind the warm-up."""
        first, last = self.marks[self.num_warmup - 1], self.marks[-1]
        num = self.num_updates - self.num_warmup
        seconds, samples, tokens, flops, data, loss = (b - a for a, b in zip(first, last, strict=True))
        times = [mark[0] for mark in self.marks[self.num_warmup - 1 :]]
        each = [1000 * (b - a) for a, b in pairwise(times)]
        mfu = utilisation(flops, seconds=seconds, device=self.device)
        return {
            "samples_per_s": rounded(samples / seconds),
            "tokens_per_s": rounded(tokens / seconds),
            "mfu": None if mfu is None else rounded(mfu),
            "step_ms": rounded(1000 * seconds / num),
            "median_step_ms": rounded(statistics.median(each)),
            "host_ms": rounded(1000 * (seconds - data - loss) / num),
            "loss_wait_ms": rounded(1000 * loss / num),
            "data_wait": rounded(data / seconds),
            "samples_a_step": rounded(samples / num),
            "tokens_a_step": rounded(tokens / num),
            "num_graphs": 0 if self.step.graphs is None else self.step.graphs.num_graphs,
        }


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rounded(value: float) -> float:
    """Return four digits of a number."""
    return float(f"{value:.4g}")
