"""What happened since the last log line, kept without waiting for the device."""

from __future__ import annotations

import logging
import resource
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from minigpt4.common.dist_utils import all_reduce_sum, get_rank, get_world_size
from minigpt4.common.liveness import READING, TRAINING, pulse
from minigpt4.runners.loader import Loaded

logger = logging.getLogger(__name__)


@dataclass
class _Window:
    steps: list[int] = field(default_factory=list)
    losses: list[Tensor] = field(
        default_factory=list
    )  # (steps, world_size) each: this rank's part of every draw's loss
    num_samples: int = 0
    num_tokens: int = 0
    flops: float = 0.0
    waiting: float = 0.0
    own: float = 0.0  # seconds of this rank's own work, before it waits for others
    started: float = field(default_factory=time.perf_counter)


class Meter:
    """Counts samples, tokens and waiting; holds losses on the device until a log line asks for them.

    `chosen[step][rank]` is the number, in `names`, of the dataset that a rank drew at a step. `streams` are the
    datasets that skip what they cannot read, and count it as `num_skipped`.
    """

    def __init__(
        self,
        *,
        num_steps: int,
        max_bad_samples: int,
        names: Sequence[str],
        chosen: Any,
        streams: Mapping[str, Any] | None = None,
    ) -> None:
        self.num_steps, self.max_bad_samples = num_steps, max_bad_samples
        self.names, self.chosen, self.streams = list(names), chosen, dict(streams or {})
        self.num_bad: Counter[str] = Counter()
        self.num_too_long: Counter[str] = Counter()
        self._window = _Window()

    def fetch(self, loader: Iterator[list[Loaded]]) -> list[Loaded]:
        """Return what the loader gives next, timing the wait; count and name what was left out of it.

        Raises: ValueError when more samples are bad than `run.max_bad_samples` allows; RuntimeError when a worker died.
        """
        began = time.perf_counter()
        pulse.doing = READING
        try:
            parts = next(loader)
        except (ConnectionError, EOFError) as error:  # what its broken pipe raises when PyTorch did not see it die
            _expect_no_signal_of_it()
            raise RuntimeError("a data worker died: it was killed, or the machine ran out of memory") from error
        except RuntimeError as error:
            if "DataLoader worker" in str(error):
                _expect_no_signal_of_it()
                raise RuntimeError(f"a data worker died: {error}") from error
            raise
        pulse.doing = TRAINING
        self._window.waiting += time.perf_counter() - began
        all_left_out = [left_out for loaded in parts for left_out in loaded.left_out]
        for left_out in all_left_out:
            counts = self.num_too_long if left_out.too_long else self.num_bad
            counts[left_out.dataset] += 1
            kind = "too long" if left_out.too_long else "bad"
            nth = counts[left_out.dataset]
            logger.warning("left out, %s (number %d of %s): %s", kind, nth, left_out.dataset, left_out.reason)
        if self.num_bad.total() > self.max_bad_samples:
            last = [left_out.reason for left_out in all_left_out if not left_out.too_long][-1]
            raise ValueError(
                f"{self.num_bad.total()} bad samples where run.max_bad_samples allows {self.max_bad_samples}; "
                f"the last: {last}"
            )
        return parts

    def add(
        self, steps: Sequence[int], losses: Tensor, parts: Sequence[Loaded], *, own_seconds: float, flops: float = 0.0
    ) -> None:
        """Count steps that came together; `losses` (steps, world_size) stay on their device."""
        window = self._window
        window.steps += steps
        window.losses.append(losses)
        window.num_samples += sum(len(loaded.ids) for loaded in parts)
        window.num_tokens += sum(len(loaded.batch.input_ids) for loaded in parts)
        window.own += own_seconds
        window.flops += flops

    def flush(self, step: int, *, device: torch.device) -> dict[str, Any]:
        """Return the figures over all ranks since the last call, and reset them; this waits for the device.

        loss is the mean over steps and draws; samples_per_s and tokens_per_s are totals of all ranks; data_wait is the
        share of the time spent waiting for batches; eta_s are seconds at this pace; slowest_rank_share is how much
        longer than the mean the slowest rank's own work took.
        """
        window, self._window = self._window, _Window()
        losses = all_reduce_sum(torch.cat(window.losses).double()).tolist() if window.losses else []
        seconds = time.perf_counter() - window.started
        counts = [count[name] for count in (self.num_bad, self.num_too_long) for name in self.names]
        counts += [dataset.num_skipped for dataset in self.streams.values()]
        own = [window.num_samples, window.num_tokens, window.flops, window.waiting, *counts]
        sums = all_reduce_sum(torch.tensor(own, dtype=torch.float64, device=device)).tolist()
        num = len(self.names)
        bad, too_long, skipped = sums[4 : 4 + num], sums[4 + num : 4 + 2 * num], sums[4 + 2 * num :]
        slowest, share = self._slowest(window, device)
        return {
            "loss": sum(map(sum, losses)) / max(len(losses) * get_world_size(), 1),
            "loss_by_dataset": self._by_dataset(window.steps, losses),
            "samples_per_s": sums[0] / seconds,
            "tokens_per_s": sums[1] / seconds,
            "flops_per_s": sums[2] / seconds / get_world_size(),
            "data_wait": sums[3] / get_world_size() / seconds,
            "eta_s": seconds / max(len(window.steps), 1) * (self.num_steps - step - 1),
            "slowest_rank": slowest,
            "slowest_rank_share": share,
            "memory_gib": _peak_memory(device),
            "num_bad_samples": {name: int(n) for name, n in zip(self.names, bad, strict=True) if n},
            "num_too_long": {name: int(n) for name, n in zip(self.names, too_long, strict=True) if n},
            "num_skipped_in_streams": {name: int(n) for name, n in zip(self.streams, skipped, strict=True) if n},
        }

    def _by_dataset(self, steps: Sequence[int], losses: Sequence[Sequence[float]]) -> dict[str, float]:
        drawn: dict[str, list[float]] = defaultdict(list)
        for step, step_losses in zip(steps, losses, strict=True):
            for number, loss in zip(self.chosen[step], step_losses, strict=True):
                drawn[self.names[number]].append(loss)
        return {name: sum(values) / len(values) for name, values in sorted(drawn.items())}

    def _slowest(self, window: _Window, device: torch.device) -> tuple[int, float]:
        own = torch.zeros(get_world_size(), dtype=torch.float64, device=device)
        own[get_rank()] = window.own + window.waiting
        times = all_reduce_sum(own)
        return int(times.argmax()), float(times.max() / times.mean().clamp(min=1e-9))


def _expect_no_signal_of_it() -> None:
    """Remove PyTorch's SIGCHLD handler: it would raise for the same worker again while a traceback is printed."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _peak_memory(device: torch.device) -> float:
    """Return the peak of allocated device memory, or of the process on a CPU, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
